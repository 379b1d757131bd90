"""The networks of the examples have the shapes that they are documented with."""

import pytest
import torch
from safetensors import safe_open

from examples.datasets import Split
from examples.networks import (
    CHECKPOINT,
    Maxout,
    SqueezeNet,
    charnet,
    depthwise_net,
    fashion_net,
    trained_fashion_net,
)
from examples.training import evaluate


def test_fashion_net():
    network = fashion_net()
    shapes = {name: tuple(module.weight.shape) for name, module in network.named_children() if "conv" in name}
    assert shapes == {"conv1": (32, 1, 5, 5), "conv2": (64, 32, 5, 5), "conv3": (128, 64, 3, 3)}
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    for layers, size in ((1, 28), (5, 14), (9, 7), (12, 3)):
        assert network[:layers](torch.zeros(2, 1, 28, 28)).shape[2:] == (size, size)


def test_depthwise_net():
    network = depthwise_net()
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert network[:-3](torch.zeros(2, 1, 28, 28)).shape == (2, 256, 4, 4)
    depthwise = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d) and m.groups > 1]
    assert [conv.groups == conv.in_channels for conv in depthwise] == [True] * 6


def test_charnet():
    network = charnet()
    shapes = [tuple(module.weight.shape) for name, module in network.named_children() if "conv" in name]
    assert shapes == [(96, 1, 9, 9), (128, 48, 9, 9), (512, 64, 8, 8), (144, 128, 1, 1)]
    for layers, shape in ((2, (48, 16, 16)), (4, (64, 8, 8)), (6, (128, 1, 1)), (9, (36,))):
        assert network[:layers](torch.zeros(2, 1, 24, 24)).shape == (2, *shape)


@pytest.mark.parametrize("pieces", [1, 2, 4])
def test_maxout_takes_the_largest_of_its_channels(pieces: int):
    x = torch.randn(3, 8, 2, 5)
    expected = x.unflatten(1, (pieces, 8 // pieces)).amax(1)
    assert torch.equal(Maxout(pieces)(x), expected)
    last = Maxout(pieces)(x.to(memory_format=torch.channels_last))
    assert torch.equal(last, expected)
    assert last.is_contiguous(memory_format=torch.channels_last)


def test_squeezenet():
    network = SqueezeNet()
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_235_496
    assert network(torch.zeros(1, 3, 227, 227)).shape == (1, 1000)


def test_checkpoint_is_small_and_says_how_it_was_made():
    assert CHECKPOINT.stat().st_size < 600_000
    with safe_open(CHECKPOINT, "pt") as file:
        recipe = file.metadata()
    assert float(recipe["test_accuracy"]) >= 0.92
    assert recipe.keys() >= {"epochs", "batch_size", "seed", "torch"}
    assert not trained_fashion_net().training


def test_checkpoint_is_as_accurate_as_it_says(fashion_test: Split):
    with safe_open(CHECKPOINT, "pt") as file:
        claimed = float(file.metadata()["test_accuracy"])
    assert evaluate(trained_fashion_net(), fashion_test) == pytest.approx(claimed, abs=5e-4)
