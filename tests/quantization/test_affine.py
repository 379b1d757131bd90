"""Grids: zero is on them, the range is covered, weights are symmetric per channel."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cnnkern.quantization import Affine, dequantize_weight, quantize_weight

FLOATS = st.floats(-1e6, 1e6, width=32)


@given(FLOATS, FLOATS, st.sampled_from([torch.uint8, torch.int8]))
def test_zero_is_exact_and_the_range_is_covered(a: float, b: float, dtype: torch.dtype) -> None:
    low, high = min(a, b), max(a, b)
    grid = Affine.from_range(low, high, dtype)
    zero = grid.quantize(torch.zeros(1))
    assert zero.item() == grid.zero_point
    assert grid.dequantize(zero).item() == 0
    # the zero point is rounded, which moves both ends by up to half a step
    slack = grid.scale * 0.5001
    assert grid.low <= min(low, 0) + slack
    assert grid.high >= max(high, 0) - slack


@given(FLOATS, FLOATS, st.lists(st.floats(0, 1), min_size=1))
def test_a_value_in_range_is_off_by_at_most_half_a_step(a: float, b: float, shares: list[float]) -> None:
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    grid = Affine.from_range(low, high)
    x = torch.tensor([grid.low + share * (grid.high - grid.low) for share in shares])
    error = (grid.dequantize(grid.quantize(x)).double() - x.double()).abs().max()
    # and the rounding of x itself and of the quotient
    assert error <= grid.scale / 2 + 2**-22 * max(abs(grid.low), abs(grid.high))


def test_ties_go_to_even() -> None:
    grid = Affine(2.0, 3)
    assert grid.quantize(torch.tensor([1.0, 3.0, 5.0, -1.0, 1e9, -1e9])).tolist() == [3, 5, 5, 3, 255, 0]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
def test_a_range_of_zero_has_a_grid(dtype: torch.dtype) -> None:
    grid = Affine.from_range(0.0, 0.0, dtype)
    assert grid.dequantize(grid.quantize(torch.zeros(3))).tolist() == [0, 0, 0]


@pytest.mark.parametrize(("low", "high"), [(1.0, 0.0), (0.0, math.inf), (math.nan, 1.0)])
def test_other_ranges_are_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="expected a finite range"):
        Affine.from_range(low, high)


def test_a_range_beyond_float32_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a range that float32 can hold"):
        Affine.from_range(0.0, 1e300)


def test_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match=r"expected torch\.uint8 or torch\.int8, got torch\.int32"):
        Affine.from_range(0.0, 1.0, torch.int32)


@pytest.mark.parametrize("shape", [(5, 3, 3, 2), (4, 7)])
def test_weights_are_symmetric_per_channel(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape)
    weight[1] *= 1e-3
    weight[2] = 0
    q, scales = quantize_weight(weight)
    assert q.dtype == torch.int8
    assert scales.dtype == torch.float32
    assert q.abs().flatten(1).amax(1).tolist() == [0 if k == 2 else 127 for k in range(len(q))]
    error = (dequantize_weight(q, scales) - weight).abs().flatten(1).amax(1)
    assert (error <= scales * 0.5001).all()
    assert torch.equal(dequantize_weight(*quantize_weight(-weight)), -dequantize_weight(q, scales))


def test_weights_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="weight: expected finite values"):
        quantize_weight(torch.tensor([[1.0, math.inf]]))
