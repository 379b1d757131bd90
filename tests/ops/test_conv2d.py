"""ops.conv2d and its packed form compute the convolution, on every instruction set and in every layout."""

import pytest
import torch

from cnnkern import ops, reference
from tests.ops.cases import CASES, LAYOUTS, SHARED, Case, fenced, laid_out


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_the_reference(case: Case, layout: str, isa: str) -> None:
    x, weight, bias = case.conv2d_arguments()
    y = ops.conv2d(laid_out(x, layout), fenced(weight), fenced(bias), **case.options)
    reference.assert_within_bound(y, reference.conv2d, x, weight, bias, **case.options)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_the_reference_in_float64(case: Case, layout: str) -> None:
    x, weight, bias = case.conv2d_arguments(torch.float64)
    y = ops.conv2d(laid_out(x, layout), fenced(weight), fenced(bias), **case.options)
    reference.assert_within_bound(y, reference.conv2d, x, weight, bias, **case.options)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_packed_weights_give_the_same(case: Case, layout: str, isa: str) -> None:
    x, weight, bias = case.conv2d_arguments()
    packed = fenced(torch.ops.cnnkern.conv2d_pack(weight, case.groups))
    geometry = [*case.weight_size, *case.stride, *case.padding, *case.dilation, case.groups]
    y = torch.ops.cnnkern.conv2d_packed(laid_out(x, layout), packed, bias, geometry, False)
    reference.assert_within_bound(y, reference.conv2d, x, weight, bias, **case.options)


def test_packed_weights_do_not_depend_on_the_instruction_set(isa: str) -> None:
    weight = torch.arange(17 * 3 * 5 * 2.0).reshape(17, 3, 5, 2)
    packed = torch.ops.cnnkern.conv2d_pack(weight, 1)
    panels = torch.cat([weight, torch.zeros(15, 3, 5, 2)]).unflatten(0, (2, 16))
    # panel, then row and column of the kernel, then input channel, then the channel within the panel
    assert torch.equal(packed, panels.permute(0, 3, 4, 2, 1).flatten())


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("case", CASES[::4], ids=str)
def test_relu_is_applied_last(case: Case, layout: str, isa: str) -> None:
    x, weight, bias = case.conv2d_arguments()
    y = ops.conv2d(laid_out(x, layout), weight, bias, **case.options, activation="relu")
    assert (y >= 0).all()
    reference.assert_within_bound(y, reference.conv2d, x, weight, bias, **case.options, activation="relu")


def test_nan_passes_through_the_convolution_and_relu(isa: str) -> None:
    x, weight, _ = Case((1, 3, 5, 7), 17, (3, 3), padding=(1, 1)).conv2d_arguments()
    x[0, 1, 2, 3] = torch.nan
    for activation in (None, "relu"):
        y = ops.conv2d(x, weight, padding=1, activation=activation)
        expected = reference.conv2d(x, weight, padding=1, activation=activation)
        assert torch.equal(y.isnan(), expected.isnan())


@pytest.mark.parametrize("layout", ["channels_last", "sliced", "sliced_channels_last"])
def test_weights_may_lie_in_any_memory_format(layout: str, isa: str) -> None:
    case = Case((1, 6, 5, 7), 34, (3, 2), groups=2)
    x, weight, bias = case.conv2d_arguments()
    strided_bias = torch.stack([bias, torch.full_like(bias, torch.nan)], 1)[:, 0]
    y = ops.conv2d(x, laid_out(weight, layout), strided_bias, **case.options)
    assert torch.equal(y, ops.conv2d(x, weight, bias, **case.options))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("case", SHARED, ids=str)
def test_is_shared_between_threads_and_deterministic(case: Case, layout: str, threads: int, isa: str) -> None:
    x, weight, bias = case.conv2d_arguments()
    x = laid_out(x, layout)
    y = ops.conv2d(x, weight, bias, **case.options)
    reference.assert_within_bound(y, reference.conv2d, x, weight, bias, **case.options)
    for _ in range(3):
        assert torch.equal(y, ops.conv2d(x, weight, bias, **case.options))
