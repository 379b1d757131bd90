"""What int8 layers save alone and together is measured in the network, and becomes bonds between options."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from cnnkern import Int8Conv2d
from cnnkern.compression import bonds
from cnnkern.compression.bonds import Savings, measure_savings, take_savings
from cnnkern.compression.candidates import Candidate
from cnnkern.compression.inspection import inspect_model
from cnnkern.compression.int8 import calibrated, without_grid
from cnnkern.compression.planner import Bond
from cnnkern.compression.search import Layer

X = torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def searched() -> tuple[nn.Module, list[Layer]]:
    """A network of three convolutions, each with a sparse candidate and an int8 one."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 4, 3), nn.Sigmoid(), nn.Conv2d(4, 2, 1)
    ).eval()
    layers, x = [], X
    with torch.no_grad():
        for place in inspect_model(model, X).places:
            x = place.x
            int8 = calibrated(without_grid(place.conv), [(x, place.conv(x))])
            layers.append(
                Layer(
                    place,
                    4.0,
                    [
                        Candidate("column_sparse", 0.5, "", 3.0, layer=nn.Identity(), error=0.5, loss=0.5),
                        Candidate("int8", None, "", 3.0, layer=int8, error=0.1, loss=0.1),
                    ],
                    8.0,
                )
            )
    return model, layers


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[list[str]], set[str], set[str]]]:
    """What is timed: for each comparison, of both models, the layers that give integers or do a ReLU; where
    it begins, and where it ends."""
    seen = []

    def stub(
        models: Sequence[nn.Module], example: Any, first: set[str], last: set[str], seconds: float
    ) -> list[float]:
        with torch.no_grad():
            for model in models:
                model(example)
        changed = [
            [
                f"{name} {'integers' if layer.out_scale is not None else layer.activation}"
                for name, layer in model.named_modules()
                if type(layer) is Int8Conv2d
            ]
            for model in models
        ]
        seen.append((changed, first, last))
        return [10.0, 9.0]

    monkeypatch.setattr(bonds, "times_between", stub)
    return seen


def test_each_layer_with_a_relu_is_timed_alone_and_each_group_apart_and_joined(timed: list):
    model, layers = searched()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    savings = measure_savings(model, layers, X, 1.0, hides_progress=True)
    assert savings == Savings({"0": 1.0}, [({"0", "3"}, 1.0)])
    assert timed == [
        ([[], ["0 relu", "3 None", "5 None"]], {"0"}, {"0", "1"}),
        (
            [["0 relu", "3 None", "5 None"], ["0 integers", "3 None", "5 None"]],
            {"0", "3"},
            {"0", "3"},
        ),
    ]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(layer.usable[1].layer.out_scale is None for layer in layers)


def test_options_cost_what_was_measured_and_are_bound():
    _, layers = searched()
    found = take_savings(layers, Savings({"0": 3.0, "3": -1.0, "5": 2.0}, [({"0", "3"}, 2.5)]))
    assert found == [Bond({0: 2, 1: 2}, 2.5)]
    assert [[option.seconds for option in layer.options] for layer in layers] == [
        [8, 6, 5],
        [8, 6, 9],  # slower alone, and kept for the bond
        [8, 6, 6],
    ]


def test_what_is_slower_alone_and_in_no_group_is_never_used():
    _, layers = searched()
    assert take_savings(layers, Savings({"0": 1.0, "3": 1.0, "5": 0.2}, [])) == []
    assert [len(layer.usable) for layer in layers] == [2, 2, 1]
    assert layers[2].candidates[1].verdict == "not faster: 1.03 times"
