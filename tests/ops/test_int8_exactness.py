"""int8 sums equal numpy's int64 product for shapes and integers that hypothesis looks for, on every ISA."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cnnkern import _C, ops, reference
from tests.ops.cases import Case

EXTREMES = {torch.uint8: (0, 1, 127, 128, 255), torch.int8: (-128, -127, -1, 0, 1, 127)}
a_dtype = st.sampled_from(tuple(EXTREMES))
quickly = settings(max_examples=40, deadline=None, derandomize=True)


@pytest.fixture(autouse=True, params=_C.available_isas())
def _isa(request: pytest.FixtureRequest):
    """As the fixture `isa`, for the module: hypothesis runs all examples in one test's fixtures."""
    before = _C.current_isa()
    _C.set_isa(request.param)
    yield
    _C.set_isa(before)


def integers(draw: st.DrawFn, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Of the whole range, of its extremes alone, or one of these everywhere."""
    seed = draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    kind = draw(st.sampled_from(("any", "extreme", "constant")))
    values = torch.tensor(EXTREMES[dtype], dtype=dtype)
    if kind == "constant":
        return torch.full(size, draw(st.sampled_from(EXTREMES[dtype])), dtype=dtype)
    if kind == "extreme":
        return values[torch.randint(len(values), size, generator=generator)]
    limits = torch.iinfo(dtype)
    return torch.randint(limits.min, limits.max + 1, size, dtype=dtype, generator=generator)


@st.composite
def matrices(draw: st.DrawFn) -> tuple[Tensor, Tensor, int]:
    """a, b and the zero point of a."""
    dtype = draw(a_dtype)
    m, n, k = (draw(st.integers(1, most)) for most in (31, 70, 300))
    limits = torch.iinfo(dtype)
    zero_point = draw(st.sampled_from((limits.min, 0, limits.max)))
    return integers(draw, (m, k), dtype), integers(draw, (k, n), torch.int8), zero_point


@quickly
@given(matrices())
def test_products_are_those_of_int64(given_matrices: tuple[Tensor, Tensor, int]) -> None:
    a, b, zero_point = given_matrices
    expected = (a.numpy().astype(np.int64) - zero_point) @ b.numpy().astype(np.int64)
    for right in (b, ops.int8_gemm_pack(b)):
        np.testing.assert_array_equal(ops.int8_gemm(a, right, a_zero_point=zero_point).numpy(), expected)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Case, Tensor, Tensor, int, torch.memory_format]:
    """A convolution that exists, its integers, the zero point of x, and the layout of x."""
    small = st.integers(1, 3)
    kernel, padding = ((draw(st.integers(least, least + 3)), draw(st.integers(least, 3))) for least in (1, 0))
    stride, dilation = ((draw(small), draw(small)) for _ in range(2))
    groups = draw(st.sampled_from((1, 1, 2, 5)))
    channels, out_channels = groups * draw(st.integers(1, 9)), groups * draw(st.integers(1, 20))
    size = [
        max(1, d * (k - 1) + 1 - 2 * p) + draw(st.integers(0, 9))
        for d, k, p in zip(dilation, kernel, padding, strict=True)
    ]
    case = Case((draw(small), channels, *size), out_channels, kernel, stride, padding, dilation, groups)
    dtype = draw(a_dtype)
    limits = torch.iinfo(dtype)
    zero_point = draw(st.sampled_from((limits.min, 3, limits.max)))
    layout = draw(st.sampled_from((torch.contiguous_format, torch.channels_last)))
    return (
        case,
        integers(draw, case.x, dtype),
        integers(draw, case.weight_size, torch.int8),
        zero_point,
        layout,
    )


@quickly
@given(convolutions())
def test_convolutions_have_the_bits_of_the_reference(
    convolution: tuple[Case, Tensor, Tensor, int, torch.memory_format],
) -> None:
    """With a scale of 1 a float32 output is the sum itself while that has 24 bits: at most 514 products."""
    case, x, weight, zero_point, layout = convolution
    options = {
        "x_scale": 1.0,
        "x_zero_point": zero_point,
        "weight_scale": torch.ones(case.channels),
        **case.options,
    }
    y = ops.int8_conv2d(x.contiguous(memory_format=layout), weight, **options)
    sums = reference.int8_sums(x, weight, x_zero_point=zero_point, **case.options)
    assert torch.equal(y.to(torch.int32), sums)
    options |= {"out_scale": 97.0, "out_zero_point": 11, "activation": "relu"}
    y = ops.int8_conv2d(x.contiguous(memory_format=layout), weight, **options)
    assert torch.equal(y, reference.int8_conv2d(x, weight, **options))
