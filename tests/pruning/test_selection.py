"""Which columns stay: per layer, over all layers, and the same number in each group."""

import math

import pytest
import torch
from torch import Tensor

from cnnkern.pruning import strongest


def marks(*rows: str) -> Tensor:
    return torch.tensor([[mark == "x" for mark in row] for row in rows])


SCORES = {
    "a": torch.tensor([[5.0, 1.0, 4.0, 2.0]]),
    "b": torch.tensor([[0.1, 0.4, 0.3], [9.0, 7.0, 8.0]]),
}


@pytest.mark.parametrize(
    ("density", "a", "b"),
    [
        (0.0, "....", ("...", "...")),
        (0.01, "x...", (".x.", "x..")),
        (0.5, "x.x.", (".xx", "x.x")),
        (1.0, "xxxx", ("xxx", "xxx")),
        ({"a": 0.75, "b": 0.3}, "x.xx", (".x.", "x..")),
    ],
)
def test_each_layer_keeps_its_share(density: float | dict[str, float], a: str, b: tuple[str, str]) -> None:
    kept = strongest(SCORES, density)
    assert torch.equal(kept["a"], marks(a))
    assert torch.equal(kept["b"], marks(*b))


@pytest.mark.parametrize(
    ("density", "a", "b"),
    [
        (0.0, "....", ("...", "...")),
        (0.01, "x...", (".x.", "x..")),  # one of each, though that is more
        (0.5, "x...", (".xx", "x.x")),  # five of ten: 5, the pairs of means 4.7 and 4.15, not 4
        (0.6, "x.x.", (".xx", "x.x")),
        (0.8, "x.x.", ("xxx", "xxx")),  # the pair of mean 3.55 before 2
        (1.0, "xxxx", ("xxx", "xxx")),
    ],
)
def test_all_layers_share_a_budget(density: float, a: str, b: tuple[str, str]) -> None:
    kept = strongest(SCORES, density, "global")
    assert torch.equal(kept["a"], marks(a))
    assert torch.equal(kept["b"], marks(*b))


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_of_equal_scores_the_first_stay(scope: str) -> None:
    kept = strongest({"a": torch.zeros(1, 500)}, 0.2, scope)["a"]
    assert kept[0, :100].all()
    assert kept.sum() == 100


@pytest.mark.parametrize(
    ("density", "scope", "message"),
    [
        (-0.1, "layer", "from 0 to 1, got -0.1"),
        (1.1, "global", "from 0 to 1, got 1.1"),
        (math.nan, "layer", "from 0 to 1, got nan"),
        ({"a": 0.5}, "layer", r"each of \['a', 'b'\], got \['a'\]"),
        ({"a": 0.5, "b": 0.5}, "global", "one share for scope 'global'"),
        (0.5, "model", "one of layer, global, got 'model'"),
    ],
)
def test_a_budget_that_cannot_be_is_refused(
    density: float | dict[str, float], scope: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        strongest(SCORES, density, scope)


def test_a_budget_that_is_no_number_is_refused() -> None:
    with pytest.raises(TypeError, match="density: expected a number, got 'half'"):
        strongest(SCORES, "half")


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN among those of 'a'"):
        strongest({"a": torch.tensor([[1.0, math.nan]])}, 0.5)
