"""Observers: the ranges they choose, in any order of the same values, kept in the state dict."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from cnnkern.quantization import Affine, Histogram, LeastSquares, MinMax, MovingAverage, Observer, Percentile

KINDS = [MinMax, MovingAverage, Percentile, LeastSquares]


def observed(observer: Observer, *tensors: Tensor) -> Observer:
    for x in tensors:
        assert observer(x) is x
    return observer


def test_min_max_is_what_was_seen() -> None:
    assert observed(MinMax(), torch.tensor([1.0, -2]), torch.tensor(5.0)).range() == (-2, 5)


def test_a_moving_average_moves_by_its_rate() -> None:
    low, high = observed(MovingAverage(0.25), torch.tensor([-1.0, 4]), torch.tensor([-3.0, 0])).range()
    assert (low, high) == (-1.5, 3)


@pytest.mark.parametrize("share", [1.0, 0.99, 0.5])
def test_a_percentile_leaves_out_both_ends_alike(share: float) -> None:
    x = torch.randn(20_000)
    low, high = observed(Percentile(share), x).range()
    cut = (1 - share) / 2
    width = 2.0**-9  # of a bin, of which 4096 reach over -4..4
    assert low == pytest.approx(x.quantile(cut).item(), abs=width)
    assert high == pytest.approx(x.quantile(1 - cut).item(), abs=width)
    assert x.min() <= low < high <= x.max()


def test_a_histogram_is_that_of_all_values_in_any_order() -> None:
    tensors = [torch.randn(500), 1e-3 * torch.randn(500), 40 * torch.rand(500), torch.tensor([-1e4])]
    forward, backward = (observed(Histogram(), *some) for some in (tensors, tensors[::-1]))
    for name, value in forward.state_dict().items():
        assert torch.equal(value, backward.state_dict()[name])
    assert forward.counts.sum() == 1501
    together = observed(Histogram(), torch.cat(tensors))
    assert torch.equal(together.counts, forward.counts)
    width = 2.0 ** int(forward.exponent)
    index = ((torch.cat(tensors).double() / width).floor() - int(forward.first)).long()
    assert torch.equal(torch.bincount(index, minlength=len(forward.counts)), forward.counts)


def squared_error(x: Tensor, low: float, high: float) -> float:
    grid = Affine.from_range(low, high)
    return float((grid.dequantize(grid.quantize(x)) - x).square().mean())


@pytest.mark.parametrize(
    "x",
    [torch.randn(5000), torch.randn(5000).relu(), torch.cat((torch.rand(5000), torch.tensor([30.0])))],
    ids=["normal", "relu", "outlier"],
)
def test_least_squares_beats_other_ranges(x: Tensor) -> None:
    best = squared_error(x, *observed(LeastSquares(), x).range())
    for other in (MinMax(), Percentile(0.999), Percentile(0.9999)):
        # a bin is a sixteenth of a step
        assert best <= squared_error(x, *observed(other, x).range()) * 1.01
    low, high = x.min().item(), x.max().item()
    for step in range(1, 21):
        assert best <= squared_error(x, low * step / 20, high * step / 20) * 1.01


def test_an_outlier_is_given_up() -> None:
    _, high = observed(LeastSquares(), torch.rand(100_000), torch.tensor([3.0])).range()
    assert 2 < high < 2.8  # c with (3 − c)² + 100,000 (c/255)²/12 least is 2.66


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_dict_has_all(kind: type[Observer]) -> None:
    observer, other = observed(kind(), torch.randn(100)), kind()
    other.load_state_dict(observer.state_dict())
    assert other.range() == observer.range()
    assert observed(other, torch.ones(3)).range() == observed(observer, torch.ones(3)).range()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_seen_is_no_range(kind: type[Observer]) -> None:
    with pytest.raises(ValueError, match="expected to have seen values"):
        observed(kind(), torch.empty(0, 3)).range()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(kind: type[Observer], value: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        observed(kind(), torch.tensor([1.0, value, 0])).range()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("x", [torch.zeros(4), torch.full((3,), -2.5), torch.tensor(1e-38)], ids=str)
def test_one_value_is_a_range(kind: type[Observer], x: Tensor) -> None:
    grid = Affine.from_range(*observed(kind(), x).range())
    assert torch.allclose(grid.dequantize(grid.quantize(x)), x, rtol=0.01, atol=1e-37)


@pytest.mark.parametrize(
    ("make", "name"), [(partial(MovingAverage, 0), "rate"), (partial(Percentile, 1.5), "share")]
)
def test_other_settings_are_refused(make: partial, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected more than 0 and at most 1"):
        make()
