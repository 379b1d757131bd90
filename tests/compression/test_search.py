"""The candidates of a model's layers are timed where plans will have them."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cnnkern import Int8Conv2d
from cnnkern.compression import search as searching
from cnnkern.compression.fits import Fits
from cnnkern.compression.inspection import inspect_model
from cnnkern.compression.processes import Processes
from cnnkern.compression.search import search
from tests.compression.clocks import script
from tests.compression.nets import chain

X = torch.randn(2, 3, 20, 20, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[list[list[str]]]:
    """For each layer that is timed in the model's run, by a scripted clock: the convolutions of the models
    that its contenders are in."""
    script(monkeypatch.setattr)
    scripted, seen = searching.times_in_place, []

    def in_place(contenders: Sequence[tuple], example: Any, seconds: float) -> list[float]:
        seen.append([convolutions(model) for model, _, _ in contenders])
        return scripted(contenders, example, seconds)

    monkeypatch.setattr(searching, "times_in_place", in_place)
    return seen


def convolutions(model: nn.Module) -> list[str]:
    return [type(each).__name__ for each in model.modules() if isinstance(each, nn.Conv2d | Int8Conv2d)]


def find(model: nn.Module) -> None:
    places = inspect_model(model, X).places
    own = {place.name: 1.0 for place in places}
    search(model, X, places, ("int8",), [X], lambda _: 0.0, 0.0, Fits(None, 0), 1.0, own, Processes())


def test_each_candidate_is_timed_among_others_of_its_method(timed: list[list[list[str]]]):
    model = chain()
    before = list(model.modules())
    find(model)
    assert timed == [[["Conv2d"] * 3, ["Int8Conv2d"] * 3]] * 3
    assert list(model.modules()) == before


class Reads(nn.Module):
    """A model that uses more of one of its convolutions than its call."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)) * self.first.weight.norm()


def test_a_candidate_is_timed_alone_where_the_model_fails_with_others_of_its_method(
    timed: list[list[list[str]]],
):
    find(Reads().eval())
    assert timed == [[["Conv2d"] * 2, ["Conv2d"] * 2]] * 2
