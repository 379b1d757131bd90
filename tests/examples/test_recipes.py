"""The two ways to bring CP layers in train what they say, and leave the network they start from alone."""

from pathlib import Path

import pytest
import torch
from torch import nn

from cnnkern import CPConv2d
from examples.datasets import Split, fashion_mnist
from examples.recipes import RECIPES, Recipe, all_at_once, one_after_other

OPTIONS = {"batch_size": 16, "description": None}
FACTORS = ("factor_c", "factor_h", "factor_w", "factor_k")


@pytest.fixture
def training(small_data: Path) -> Split:
    return fashion_mnist(small_data)[0]


@pytest.fixture
def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 5, stride=4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(6 * 16, 10)
    return nn.Sequential(*layers).eval()


@pytest.fixture
def layers(network: nn.Sequential) -> dict[str, CPConv2d]:
    return {name: CPConv2d.from_conv(network.get_submodule(name), rank=2, verbose=False) for name in "02"}


def moved(layer: CPConv2d, other: CPConv2d) -> bool:
    return not all(torch.equal(getattr(layer, name), getattr(other, name)) for name in FACTORS)


def test_one_after_the_other(network: nn.Sequential, layers: dict[str, CPConv2d], training: Split):
    tuned = one_after_other(network, layers, training, 8, **OPTIONS)
    assert not moved(tuned[0], layers["0"])
    # The second convolution was trained before it was decomposed, and is not trained afterwards.
    assert moved(tuned[2], layers["2"])
    assert not torch.equal(tuned[4].weight, network[4].weight)


def test_second_layer_is_a_fit_of_what_it_has_become(
    network: nn.Sequential, layers: dict[str, CPConv2d], training: Split, monkeypatch: pytest.MonkeyPatch
):
    fitted = []
    from_conv = CPConv2d.from_conv

    def spy(conv: nn.Conv2d, **options) -> CPConv2d:
        fitted.append(from_conv(conv, **options))
        assert not torch.equal(conv.weight, network[2].weight)
        return fitted[-1]

    monkeypatch.setattr(CPConv2d, "from_conv", spy)
    tuned = one_after_other(network, layers, training, 8, **OPTIONS)
    assert len(fitted) == 1
    assert not moved(tuned[2], fitted[0])


def test_all_at_once(network: nn.Sequential, layers: dict[str, CPConv2d], training: Split):
    tuned = all_at_once(network, layers, training, 4, **OPTIONS)
    assert all(moved(tuned[int(name)], layer) for name, layer in layers.items())


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_network_and_steps(
    recipe: Recipe, network: nn.Sequential, layers: dict[str, CPConv2d], training: Split
):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    steps = []
    tuned = recipe(network, layers, training, 6, after_step=lambda: steps.append(1), **OPTIONS)
    assert len(steps) == 6
    assert not tuned.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
