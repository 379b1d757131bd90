"""int8_column_sparse_conv2d gives the integers of the reference, all of them, on every ISA."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cnnkern import ops, reference
from tests.ops.cases import CASES, LAYOUTS, SHARED, Case, laid_out
from tests.ops.integers import DTYPES, conv2d_arguments, integers, out_scale_of

GEOMETRIES = [case for case in CASES if case.x[0] == 2 or case.kernel not in ((1, 1), (3, 3))]


def arguments(
    case: Case, dtype: torch.dtype, density: float = 0.3
) -> tuple[list[Tensor | None], dict[str, Any]]:
    """x, weight, columns and bias, and the options without an out_scale."""
    (x, _, bias), options = conv2d_arguments(case, dtype)
    _, weight, columns, _ = case.column_sparse_arguments(density=density)
    weight = integers(tuple(weight.shape), torch.int8)
    return [x, weight, columns, bias], {**options, "kernel_size": case.kernel}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_has_the_bits_of_the_reference(case: Case, int8_isa: str) -> None:
    """Dense and sliced layouts alternate from case to case, as do x's dtype, the activation and what comes
    out."""
    index = CASES.index(case)
    (x, *rest), options = arguments(case, DTYPES[index // 2 % 2])
    if index % 3:
        options |= {"out_scale": out_scale_of(case) / 2, "out_zero_point": 17}
    options["activation"] = (None, "relu")[index // 4 % 2]
    expected = reference.int8_column_sparse_conv2d(x, *rest, **options)
    for layout in LAYOUTS[index % 2 * 2 :][:2]:
        y = ops.int8_column_sparse_conv2d(laid_out(x, layout, fill=77), *rest, **options)
        assert y.dtype == expected.dtype
        assert torch.equal(y, expected)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("density", [0.0, 0.05, 1.0])
def test_any_number_of_columns_may_be_kept(density: float, layout: str, int8_isa: str) -> None:
    for case in (Case((2, 19, 7, 9), 18, (3, 5), padding=(1, 2)), Case((1, 38, 9, 7), 34, (3, 3), groups=2)):
        (x, weight, columns, bias), options = arguments(case, torch.uint8, density)
        if density == 0:
            weight, columns = weight[:, :0], columns[..., :0]
        y = ops.int8_column_sparse_conv2d(laid_out(x, layout, fill=7), weight, columns, bias, **options)
        expected = reference.int8_column_sparse_conv2d(x, weight, columns, bias, **options)
        assert torch.equal(y, expected)
        if density == 1:
            options.pop("kernel_size")
            assert torch.equal(y, ops.int8_conv2d(x, weight.view(case.weight_size), bias, **options))


@pytest.mark.parametrize("case", GEOMETRIES[::4], ids=str)
def test_the_packed_form_gives_the_same(case: Case, int8_isa: str) -> None:
    (x, weight, columns, bias), options = arguments(case, torch.int8)
    packed = torch.ops.cnnkern.int8_column_sparse_conv2d_pack(weight, case.groups)
    memory = torch.full((len(packed) + 78,), 99, dtype=torch.int8)  # not aligned to anything
    packed = memory[39:-39].copy_(packed)
    geometry = [*case.weight_size, *case.stride, *case.padding, *case.dilation, case.groups]
    numbers = options["weight_scale"], options["x_scale"], options["x_zero_point"], None, 0, False
    y = torch.ops.cnnkern.int8_column_sparse_conv2d_packed(x, packed, bias, geometry, columns, *numbers)
    assert torch.equal(y, reference.int8_column_sparse_conv2d(x, weight, columns, bias, **options))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("case", SHARED[:5], ids=str)
def test_is_shared_between_threads(case: Case, layout: str, threads: int) -> None:
    (x, *rest), options = arguments(case, torch.uint8)
    y = ops.int8_column_sparse_conv2d(laid_out(x, layout, fill=77), *rest, **options)
    assert torch.equal(y, reference.int8_column_sparse_conv2d(x, *rest, **options))
