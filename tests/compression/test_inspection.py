"""Convolutions that cannot be replaced safely are left alone, and the reason is told."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnkern.compression.inspection import FUNCTIONAL, activations, inspect_model
from tests.compression.nets import Branches, chain

X = torch.randn(2, 3, 8, 8)


class Special(nn.Conv2d):
    pass


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)
        self.weight = nn.Parameter(torch.ones(3, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(self.conv(x), self.weight)


def tied() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
    model[1].weight = model[0].weight
    return model


def frozen() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
    model[0].requires_grad_(False)
    return model


def uncalled() -> nn.Module:
    model = Functional()
    model.other = nn.Conv2d(3, 3, 1)
    return model


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 3, 1))
    model[0].register_forward_hook(lambda *_: None)
    return model


@pytest.mark.parametrize(
    ("build", "name", "reason"),
    [
        (Branches, "twice", "called 2 times in a run"),
        (Functional, FUNCTIONAL, "1 convolutions that belong to no layer"),
        (uncalled, "other", "not called in a run"),
        (lambda: nn.Sequential(Special(3, 3, 1)), "0", "Special, which may compute something else"),
        (tied, "1", "its weight belongs to another layer too"),
        (frozen, "0", "frozen, in a model of which other parts are trained"),
        (hooked, "0", "it has hooks"),
        (
            lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 1)),
            "",
            "which may compute something",
        ),
        (
            lambda: nn.Sequential(nn.Flatten(0, 1), nn.Conv2d(6, 3, 1)),
            "1",
            "not called with one batch of images",
        ),
    ],
)
def test_why_a_convolution_is_left_alone(build: Callable[[], nn.Module], name: str, reason: str):
    assert reason in inspect_model(build(), X).left_alone[name]


def test_the_others_come_in_the_order_of_their_calls():
    model = chain()
    inspection = inspect_model(model, torch.ones(1, 3, 20, 20))
    assert [place.name for place in inspection.places] == ["0", "2", "4"]
    assert inspection.left_alone == {}
    assert inspection.places[1].x.shape == (1, 16, 20, 20)
    assert inspection.places[2].cost.output_size == (10, 10)


def test_a_model_that_is_frozen_as_a_whole_is_not_left_alone():
    assert len(inspect_model(chain().requires_grad_(False), torch.ones(1, 3, 20, 20)).places) == 3


def test_activations_are_those_of_each_batch():
    model = chain()
    (x1, y1), (x2, y2) = activations(model, model[0], [torch.ones(1, 3, 9, 9), torch.zeros(2, 3, 9, 9)])
    assert (x1.shape, y1.shape, x2.shape) == ((1, 3, 9, 9), (1, 16, 9, 9), (2, 3, 9, 9))
    assert torch.equal(y2[0], y2[1])
    assert not model[0]._forward_hooks
