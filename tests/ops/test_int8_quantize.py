"""int8_quantize gives the integers nearest to real numbers, in the memory format of these, on every ISA."""

import pytest
import torch
from torch import Tensor

from cnnkern import ops, reference
from tests.ops.cases import fenced
from tests.ops.elementwise import laid_out_variously
from tests.ops.integers import DTYPES

SCALE, ZERO_POINT = 0.037, 11
SPECIAL = torch.tensor([torch.nan, torch.inf, -torch.inf, 3e38, -3e38, 1e10, -1e10, 1e-44, -0.0])


def numbers(count: int) -> Tensor:
    """Of both sides of both limits, and at the start what no grid holds."""
    x = torch.randn(count) * 160 * SCALE
    x[: len(SPECIAL)] = SPECIAL[:count]
    return x


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 63, 64, 65, 1023, 1025, 2111])
@pytest.mark.parametrize("dtype", DTYPES)
def test_has_the_bits_of_the_reference(dtype: torch.dtype, count: int, int8_isa: str) -> None:
    x = fenced(numbers(count))
    for scale, zero_point in ((SCALE, ZERO_POINT), (1e-30, 0), (1e30, 127)):
        y = ops.int8_quantize(x, scale, zero_point, dtype)
        assert y.dtype == dtype
        assert torch.equal(y, reference.int8_quantize(x, scale, zero_point, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_is_half_a_step_away_at_most(dtype: torch.dtype, int8_isa: str) -> None:
    """Of the exact quotient, and what rounding the scale and the quotient to float32 adds."""
    x, limits = torch.randn(2000) * 160 * SCALE, torch.iinfo(dtype)
    exact = x.double() / SCALE
    error = ops.int8_quantize(x, SCALE, ZERO_POINT, dtype) - (exact + ZERO_POINT).clamp(
        limits.min, limits.max
    )
    assert (error.abs() <= 0.5 + exact.abs() * 2 * 2.0**-24).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounds_ties_to_even(dtype: torch.dtype, int8_isa: str) -> None:
    """Before the zero point is added, an odd one here."""
    halves = torch.arange(-20, 20) / 2
    y = ops.int8_quantize(halves * 0.25, 0.25, 21, dtype)
    assert torch.equal(y.float() - 21, halves.round())


def test_what_is_no_number_becomes_zero(int8_isa: str) -> None:
    for dtype in DTYPES:
        assert not ops.int8_quantize(torch.full((70,), torch.nan), SCALE, ZERO_POINT, dtype).any()


def test_has_the_memory_format_of_its_input() -> None:
    for name, x in laid_out_variously(numbers(900), torch.nan):
        y = ops.int8_quantize(x, SCALE, ZERO_POINT)
        assert torch.equal(y, reference.int8_quantize(x, SCALE, ZERO_POINT)), name
        like = torch.empty_like(x)
        traced = ops.int8_quantize(x.to("meta").as_strided(x.shape, x.stride()), SCALE, ZERO_POINT)
        assert y.stride() == like.stride() == traced.stride(), name


def test_is_shared_between_threads(threads: int) -> None:
    x = torch.randn(150_001)
    assert torch.equal(ops.int8_quantize(x, 0.02, 128), reference.int8_quantize(x, 0.02, 128))


def test_has_no_gradient_and_is_float32_under_autocast() -> None:
    x = torch.randn(5, 7).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = ops.int8_quantize(x, SCALE, ZERO_POINT)
    assert torch.equal(y, reference.int8_quantize(x.float(), SCALE, ZERO_POINT))
    assert not ops.int8_quantize(x.float().requires_grad_(), SCALE, ZERO_POINT).requires_grad


def test_compiles_without_a_break() -> None:
    x = numbers(900)[:840].view(2, 3, 10, 14).contiguous(memory_format=torch.channels_last)
    compiled = torch.compile(ops.int8_quantize, fullgraph=True, backend="aot_eager", dynamic=True)
    for dtype in DTYPES:
        assert torch.equal(
            compiled(x, SCALE, ZERO_POINT, dtype), ops.int8_quantize(x, SCALE, ZERO_POINT, dtype)
        )
