"""int8_gemm, int8_conv2d and int8_linear give the integers of the reference, all of them, on every ISA."""

from typing import Any

import pytest
import torch

from cnnkern import ops, reference
from cnnkern.ops.int8_arguments import LONGEST_SUM
from tests.ops.cases import CASES, LAYOUTS, SHARED, Case, laid_out
from tests.ops.integers import DTYPES, conv2d_arguments, integers, varied_arguments


@pytest.mark.parametrize("case", CASES, ids=str)
def test_convolution_has_the_bits_of_the_reference(case: Case, int8_isa: str) -> None:
    """Dense and sliced layouts alternate from case to case; every layout has the same tensors."""
    index = CASES.index(case)
    (x, weight, bias), options = varied_arguments(case, index // 2)
    expected = reference.int8_conv2d(x, weight, bias, **options)
    for layout in LAYOUTS[index % 2 * 2 :][:2]:
        y = ops.int8_conv2d(laid_out(x, layout, fill=77), weight, bias, **options)
        assert y.dtype == expected.dtype
        assert torch.equal(y, expected)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("case", CASES[::3], ids=str)
def test_packed_convolution_gives_the_same(case: Case, layout: str, int8_isa: str) -> None:
    (x, weight, bias), options = conv2d_arguments(case, torch.uint8)
    packed = torch.ops.cnnkern.int8_conv2d_pack(weight, case.groups)
    memory = torch.full((len(packed) + 78,), 99, dtype=torch.int8)  # not aligned to anything
    packed = memory[39:-39].copy_(packed)
    geometry = [*case.weight_size, *case.stride, *case.padding, *case.dilation, case.groups]
    numbers = options["weight_scale"], options["x_scale"], options["x_zero_point"], None, 0, False
    y = torch.ops.cnnkern.int8_conv2d_packed(laid_out(x, layout, fill=77), packed, bias, geometry, *numbers)
    assert torch.equal(y, reference.int8_conv2d(x, weight, bias, **options))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("case", SHARED, ids=str)
def test_is_shared_between_threads(case: Case, layout: str, threads: int) -> None:
    (x, weight, bias), options = conv2d_arguments(case, torch.int8)
    y = ops.int8_conv2d(laid_out(x, layout, fill=77), weight, bias, **options)
    assert torch.equal(y, reference.int8_conv2d(x, weight, bias, **options))


def test_rounds_to_nearest_with_ties_to_even(int8_isa: str) -> None:
    x = torch.arange(0, 40, dtype=torch.uint8).view(1, 1, 1, 40)
    y = ops.int8_conv2d(
        x,
        torch.ones(1, 1, 1, 1, dtype=torch.int8),
        x_scale=0.5,
        x_zero_point=20,
        weight_scale=torch.ones(1),
        out_scale=1.0,
        out_zero_point=100,
    )
    halves = torch.arange(-20, 20) / 2
    assert torch.equal(y.flatten() - 100.0, halves.round())
    assert {0, 2, -2} <= set((y.flatten().int() - 100).tolist())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("values", ["least", "greatest", "opposite"])
def test_the_longest_sum_is_exact(dtype: torch.dtype, values: str, int8_isa: str) -> None:
    """A row of the longest sum that is allowed, every product of the greatest magnitude."""
    k, limits = LONGEST_SUM, torch.iinfo(dtype)
    zero_point = limits.max if values == "least" else limits.min
    a = torch.full((3, k), limits.min if values == "least" else limits.max, dtype=dtype)
    b = torch.full((k, 17), -128 if values != "opposite" else 127, dtype=torch.int8)
    expected = reference.int8_gemm(a, b, a_zero_point=zero_point)
    assert expected.abs().max() > 2**31 - 2**25
    assert torch.equal(ops.int8_gemm(a, b, a_zero_point=zero_point), expected)


@pytest.mark.parametrize("columns", [1, 15, 16, 17, 48, 65])
@pytest.mark.parametrize("dtype", DTYPES)
def test_packed_matrices_give_the_same(dtype: torch.dtype, columns: int, int8_isa: str) -> None:
    for rows, k in ((1, 1), (5, 7), (29, 64), (15, 129)):
        a, b = integers((rows, k), dtype), integers((columns, k), torch.int8).t()
        expected = reference.int8_gemm(a, b, a_zero_point=5)
        assert torch.equal(ops.int8_gemm(a, b, a_zero_point=5), expected)
        assert torch.equal(ops.int8_gemm(a, ops.int8_gemm_pack(b), a_zero_point=5), expected)


@pytest.mark.parametrize("shape", [(13,), (3, 13), (2, 0, 13), (2, 3, 13)], ids=str)
@pytest.mark.parametrize("quantized", [False, True], ids=["float", "quantized"])
def test_linear_has_the_bits_of_the_reference(shape: tuple[int, ...], quantized: bool, int8_isa: str) -> None:
    x, weight, bias = integers(shape, torch.uint8), integers((19, 13), torch.int8), torch.randn(19)
    options: dict[str, Any] = {"x_scale": 0.1, "x_zero_point": 99, "weight_scale": torch.rand(19) + 0.01}
    if quantized:
        options |= {"out_scale": 20.0, "out_zero_point": 101, "activation": "relu"}
    y = ops.int8_linear(x, weight, bias, **options)
    expected = reference.int8_linear(x.view(-1, 13), weight, bias, **options).view(*shape[:-1], 19)
    assert torch.equal(y, expected)
