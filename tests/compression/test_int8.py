"""An int8 layer between float32 ones: its grid fits its inputs, its bias its targets; it can be trained."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import cnnkern
from cnnkern import Int8Conv2d
from cnnkern.compression import Distill
from cnnkern.compression.int8 import LEAST_POSITIONS, calibrated, trainable, without_grid
from cnnkern.compression.losses import parameter_count
from cnnkern.compression.refit import refit, relative_error
from tests.compression.nets import chain

X = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(3))
GEOMETRY = {"stride": (2, 1), "padding": (1, 2), "groups": 2, "padding_mode": "reflect"}


def pairs(conv: nn.Conv2d, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    with torch.no_grad():
        return [(part, conv(part)) for part in x.split(2)]


@pytest.mark.parametrize("bias", [True, False])
def test_its_grid_and_its_bias_are_those_of_the_activations(bias: bool):
    conv = nn.Conv2d(4, 6, 3, bias=bias, **GEOMETRY).eval()
    seen = pairs(conv, 5 * torch.randn(4, 4, 10, 11) + 20)
    blank = without_grid(conv)
    found = refit(blank, seen)
    assert isinstance(found.layer, Int8Conv2d)
    assert found.after == relative_error(found.layer, seen) < 0.02 < found.before
    means = sum((found.layer(x) - y).double().sum(dim=(0, 2, 3)) for x, y in seen)
    assert means.abs().max() < 1e-3
    assert blank.numbers()[:2] == (1.0, 0)


def test_few_positions_do_not_move_the_bias():
    conv = nn.Conv2d(4, 6, 1).eval()
    seen = pairs(conv, torch.randn(1, 4, 1, LEAST_POSITIONS - 1))
    assert torch.equal(calibrated(without_grid(conv), seen).bias, conv.bias)


def test_activations_that_overflow_leave_a_layer_with_a_grid():
    conv = nn.Conv2d(1, 1, 1).eval()
    x = torch.tensor([[[[0.0, float("inf"), float("nan")]]]])
    assert calibrated(without_grid(conv), [(x, x)]).numbers()[0] > 0


def quantized_chain() -> nn.Sequential:
    """`chain` with all of its convolutions in int8, calibrated one after the other."""
    model, plain = chain(), chain()
    for index in (0, 2, 4):
        with torch.no_grad():
            seen = [(model[:index](X), plain[: index + 1](X))]
        model[index] = calibrated(without_grid(model[index]), seen)
    return model


def test_it_is_trained_through_and_stays_on_its_grid():
    original, model = chain(), quantized_chain()
    layers = [model[index] for index in (0, 2, 4)]
    layers[2].weight_scale.mul_(0.6)
    before, grids = copy.deepcopy(model), [layer.numbers() for layer in layers]

    def loss(y: Tensor, wanted: Tensor, _: object) -> Tensor:
        return (y - wanted).square().sum()

    Distill([(X, None)], steps=40, learning_rate=0.02, loss=loss)(model, original)
    with torch.no_grad():
        assert loss(model(X), original(X), None) < 0.5 * loss(before(X), original(X), None)
    assert [model[index] for index in (0, 2, 4)] == layers
    assert [layer.numbers() for layer in layers] == grids
    assert not torch.equal(layers[1].weight, before[2].weight)
    assert not model.training


def test_what_is_trained_is_what_is_computed_then():
    model = quantized_chain()
    expected = model(X)
    with trainable(model) as network:
        torch.testing.assert_close(network(X), expected, rtol=1e-4, atol=1e-5)
        assert any(parameter.requires_grad for parameter in network[2].parameters())
    torch.testing.assert_close(model(X), expected, rtol=1e-4, atol=1e-5)


def test_its_numbers_are_counted_and_it_is_saved(tmp_path: Path):
    model = quantized_chain()
    assert parameter_count(model) == sum(parameter.numel() for parameter in chain().parameters())
    cnnkern.save(model, tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(cnnkern.load(tmp_path / "model", chain())(X), model(X))
