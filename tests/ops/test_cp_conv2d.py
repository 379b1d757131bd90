"""ops.cp_conv2d and its packed form compute the convolution with the weight that the factors stand for."""

import pytest
import torch

from cnnkern import ops, reference
from tests.ops.cases import CASES, LAYOUTS, SHARED, Case, fenced, laid_out


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_the_reference(case: Case, layout: str, isa: str) -> None:
    x, *rest = case.cp_arguments()
    y = ops.cp_conv2d(laid_out(x, layout), *map(fenced, rest), **case.options)
    reference.assert_within_bound(y, reference.cp_conv2d, x, *rest, **case.options)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_the_reference_in_float64(case: Case, layout: str) -> None:
    x, *rest = case.cp_arguments(torch.float64)
    y = ops.cp_conv2d(laid_out(x, layout), *map(fenced, rest), **case.options)
    reference.assert_within_bound(y, reference.cp_conv2d, x, *rest, **case.options)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_packed_factors_give_the_same(case: Case, layout: str, isa: str) -> None:
    x, *factors, bias = case.cp_arguments()
    packed = fenced(torch.ops.cnnkern.cp_conv2d_pack(*factors, case.groups))
    geometry = [*case.factor_size, *case.stride, *case.padding, *case.dilation, case.groups]
    y = torch.ops.cnnkern.cp_conv2d_packed(laid_out(x, layout), packed, bias, geometry)
    reference.assert_within_bound(y, reference.cp_conv2d, x, *factors, bias, **case.options)


def test_factors_may_be_strided(isa: str) -> None:
    case = Case((1, 6, 5, 7), 34, (3, 2), groups=2, rank=18)
    x, *factors, bias = case.cp_arguments()
    transposed = [factor.T.contiguous().T for factor in factors]
    y = ops.cp_conv2d(x, *transposed, bias, **case.options)
    assert torch.equal(y, ops.cp_conv2d(x, *factors, bias, **case.options))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("case", SHARED, ids=str)
def test_is_shared_between_threads_and_deterministic(case: Case, layout: str, threads: int, isa: str) -> None:
    x, *rest = case.cp_arguments()
    x = laid_out(x, layout)
    y = ops.cp_conv2d(x, *rest, **case.options)
    reference.assert_within_bound(y, reference.cp_conv2d, x, *rest, **case.options)
    for _ in range(3):
        assert torch.equal(y, ops.cp_conv2d(x, *rest, **case.options))
