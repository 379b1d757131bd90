"""Masks have the rate that was asked for, and lie where they should."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cnnkern import perforation

SIZES = [(1, 1), (1, 7), (13, 1), (7, 7), (28, 28), (27, 55)]
RATES = [0.0, 0.1, 1 / 3, 0.5, 0.75, 0.99]


def impact(size: tuple[int, int], rate: float) -> Tensor:
    return perforation.impact(torch.ones(size), rate)


def pooling(size: tuple[int, int], rate: float) -> Tensor:
    return perforation.pooling_structure(size, rate, kernel_size=3, stride=2, padding=1)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("make", [perforation.uniform, pooling, impact])
def test_the_rate_is_met_to_the_nearest_position(
    make: Callable[..., Tensor], size: tuple[int, int], rate: float
) -> None:
    mask = make(size, rate)
    assert mask.dtype is torch.bool
    assert tuple(mask.shape) == size
    assert int(mask.sum()) == max(1, round(size[0] * size[1] * (1 - rate)))


@pytest.mark.parametrize("make", [perforation.uniform, perforation.grid, pooling, impact])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_rate_zero_keeps_all_and_the_same_arguments_give_the_same(
    make: Callable[..., Tensor], size: tuple[int, int]
) -> None:
    assert make(size, 0.0).all()
    assert torch.equal(make(size, 0.4), make(size, 0.4))


def test_other_seeds_give_other_masks() -> None:
    assert not torch.equal(perforation.uniform((9, 9), 0.5, 1), perforation.uniform((9, 9), 0.5, 2))
    first, second = (perforation.pooling_structure((9, 9), 0.5, 3, 2, seed=seed) for seed in (1, 2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("rate", RATES)
def test_a_grid_is_rows_times_columns_evenly_apart(size: tuple[int, int], rate: float) -> None:
    mask = perforation.grid(size, rate)
    rows, columns = mask.any(1), mask.any(0)
    assert torch.equal(mask, rows[:, None] & columns)
    for axis in (rows, columns):
        kept = axis.nonzero().flatten()
        distances = kept.diff()
        assert distances.numel() == 0 or distances.max() - distances.min() <= 1
        assert (
            kept[0] - (axis.numel() - 1 - kept[-1])
        ).abs() <= 1  # as far from one border as from the other


@pytest.mark.parametrize("rate", [0.25, 0.5, 0.75])
def test_a_grid_comes_close_to_its_rate(rate: float) -> None:
    for side in (28, 56, 111):
        kept = perforation.grid((side, side), rate).float().mean().item()
        assert abs(kept - (1 - rate)) < 1 / side  # half a row and half a column


def test_a_grid_at_three_quarters_is_every_second_row_and_column() -> None:
    expected = torch.zeros(6, 8, dtype=torch.bool)
    expected[1::2, 1::2] = True
    assert torch.equal(perforation.grid((6, 8), 0.75), expected)


@pytest.mark.parametrize(
    "geometry",
    [
        {"kernel_size": 3, "stride": 2},
        {"kernel_size": (2, 3), "stride": (3, 2), "padding": (1, 1)},
        {"kernel_size": 2, "stride": 1, "dilation": 2},
        {"kernel_size": 2},
    ],
    ids=str,
)
def test_what_more_windows_read_is_kept_first(geometry: dict) -> None:
    x = torch.zeros(1, 1, 13, 17, requires_grad=True)
    kernel = geometry["kernel_size"]
    area = kernel**2 if isinstance(kernel, int) else kernel[0] * kernel[1]
    rest = {"stride": kernel, "padding": 0, "dilation": 1, **geometry}
    windows = F.unfold(x, rest["kernel_size"], rest["dilation"], rest["padding"], rest["stride"])
    (read,) = torch.autograd.grad(windows.sum(), x)
    assert read.max() <= area
    for rate in (0.2, 0.5, 0.8):
        mask = perforation.pooling_structure((13, 17), rate, **geometry)
        assert read[0, 0][mask].min() >= read[0, 0][~mask].max()


@pytest.mark.parametrize("make", [perforation.uniform, perforation.grid, pooling])
def test_rates_and_sizes_that_cannot_be_are_refused(make: Callable[..., Tensor]) -> None:
    for rate in (1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="rate: expected 0 <= rate < 1"):
            make((5, 5), rate)
    with pytest.raises(ValueError, match=r"size: expected at least 1 x 1, got \(0, 5\)"):
        make((0, 5), 0.5)
    with pytest.raises(TypeError, match=r"size: expected a pair of ints \(oH, oW\), got 5"):
        make(5, 0.5)
    with pytest.raises(TypeError, match="rate: expected a number, got 'half'"):
        make((5, 5), "half")


def test_without_a_rate_what_no_window_reads_is_dropped() -> None:
    mask = perforation.pooling_structure((5, 6), None, kernel_size=(1, 2), stride=(2, 4))
    assert torch.equal(mask, torch.tensor([[1, 1, 0, 0, 1, 1], [0] * 6] * 3)[:5].bool())


def test_a_pooling_layer_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="kernel_size: expected a window that fits into 5 positions, got 7"):
        perforation.pooling_structure((5, 9), 0.5, 7)
    with pytest.raises(ValueError, match="expected those of a pooling layer, got 2, 0, 0, 1"):
        perforation.pooling_structure((5, 9), 0.5, 2, stride=0)
