"""int8_cp_conv2d is the reference: to the last bit, but where an inner value is on the edge of a rounding."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from cnnkern import ops, reference
from tests.ops.cases import CASES, LAYOUTS, SHARED, Case, laid_out
from tests.ops.integers import DTYPES, integers


def arguments(case: Case, dtype: torch.dtype) -> tuple[list[Tensor | None], dict[str, Any]]:
    """x, the factors and bias, and the options without an out_scale; some of the inner values are clamped."""
    k, rank, c, kernel_h, kernel_w = case.factor_size
    factor_c, factor_k = (integers(size, torch.int8) for size in ((rank, c), (k, rank // case.groups)))
    factor_h, factor_w = torch.randn(rank, kernel_h), torch.randn(rank, kernel_w)
    # the standard deviation of stage 3 becomes 50
    deviation = 0.02 * 74 * 74 * (c * kernel_h * kernel_w) ** 0.5
    bias = torch.randn(k) * 10 if case.bias else None
    options = {
        "x_scale": 0.02,
        "x_zero_point": 3 if dtype is torch.int8 else 131,
        "factor_c_scale": (torch.rand(rank) + 0.5) * 50 / deviation,
        "factor_k_scale": torch.rand(k) + 0.01,
        **case.options,
    }
    return [integers(case.x, dtype), factor_c, factor_h, factor_w, factor_k, bias], options


def out_scale_of(case: Case) -> float:
    return (case.rank // case.groups) ** 0.5 * 50 * 74 * 0.5 / 60


def assert_is_the_reference(
    given: list[Tensor | None], options: dict[str, Any], layouts: Sequence[str]
) -> None:
    """Within the bound, which is zero for nearly all elements, whatever the layout of x."""
    expected = reference.int8_cp_conv2d(*given, **options)
    bound = reference.int8_cp_conv2d_bound(*given, **options)
    assert (bound > 0).double().mean() < 0.1 or expected.numel() < 100
    for layout in layouts:
        y = ops.int8_cp_conv2d(laid_out(given[0], layout, fill=77), *given[1:], **options)
        assert y.dtype == expected.dtype
        assert ((y.double() - expected.double()).abs() <= bound).all()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_is_the_reference(case: Case, int8_isa: str) -> None:
    """Dense and sliced layouts alternate from case to case, as do x's dtype, the activation and what comes
    out."""
    index = CASES.index(case)
    given, options = arguments(case, DTYPES[index // 2 % 2])
    if index % 3:
        options |= {"out_scale": out_scale_of(case), "out_zero_point": 17}
    options["activation"] = (None, "relu")[index // 4 % 2]
    assert_is_the_reference(given, options, LAYOUTS[index % 2 * 2 :][:2])


@pytest.mark.parametrize("case", CASES[::7], ids=str)
def test_the_packed_form_gives_the_same(case: Case, int8_isa: str) -> None:
    (x, *factors, bias), options = arguments(case, torch.uint8)
    packed = torch.ops.cnnkern.int8_cp_conv2d_pack(*factors, case.groups)
    memory = torch.full((len(packed) + 78,), 99, dtype=torch.int8)  # not aligned to anything
    packed = memory[39:-39].copy_(packed)
    geometry = [*case.factor_size, *case.stride, *case.padding, *case.dilation, case.groups]
    scales = (options[name] for name in ("factor_c_scale", "factor_k_scale", "x_scale", "x_zero_point"))
    y = torch.ops.cnnkern.int8_cp_conv2d_packed(x, packed, bias, geometry, *scales, None, 0, False)
    assert torch.equal(y, ops.int8_cp_conv2d(x, *factors, bias, **options))


@pytest.mark.parametrize("case", SHARED[:5], ids=str)
def test_is_shared_between_threads(case: Case, threads: int) -> None:
    assert_is_the_reference(*arguments(case, torch.int8), LAYOUTS[:2])


@pytest.mark.parametrize("dtype", DTYPES)
def test_inner_values_are_rounded_to_even_and_clamped(dtype: torch.dtype, int8_isa: str) -> None:
    """Components of factors 1 and 0.5: what comes out are the integers, or halves of them rounded."""
    limits = torch.iinfo(dtype)
    x = torch.arange(limits.min, limits.max + 1, dtype=torch.int16).to(dtype).view(1, 1, 16, 16)
    one, scale = torch.ones(1, 1), torch.ones(1)
    for half, zero_point in ((0.5, limits.min), (0.5, 3), (1.0, limits.min), (1.0, limits.max)):
        numbers = {"x_scale": 1.0, "x_zero_point": zero_point}
        scales = {"factor_c_scale": scale, "factor_k_scale": scale}
        y = ops.int8_cp_conv2d(x, one.char(), one * half, one, one.char(), **numbers, **scales)
        assert torch.equal(y, ((x.float() - zero_point) * half).round().clamp(-127, 127))
