"""ops.column_sparse_conv2d computes with the columns that it is given, in every layout, on every instruction
set.
"""

import pytest
import torch
from torch import Tensor

from cnnkern import ops, reference
from tests.ops.cases import CASES, LAYOUTS, SHARED, Case, fenced, laid_out

DENSITIES = {"all": 1.0, "some": 0.1, "one": 0.0}
# Large patches, which are gathered first where few columns are kept, in blocks; more rows of taps, cut off by
# padding, than a product takes at once.
LARGE = [
    Case((3, 350, 7, 9), 130, (5, 5), padding=(2, 2)),
    Case((1, 700, 7, 9), 258, (3, 5), stride=(2, 1), padding=(2, 3), dilation=(2, 2), groups=2),
    Case((1, 2, 300, 3), 5, (290, 3), padding=(3, 1)),
]
by_case = pytest.mark.parametrize("case", CASES, ids=str)
by_format = pytest.mark.parametrize("layout", ["contiguous", "channels_last"])


def assert_agrees(y: Tensor, case: Case, arguments: list[Tensor | None]) -> None:
    options = {"kernel_size": case.kernel, **case.options}
    reference.assert_within_bound(y, reference.column_sparse_conv2d, *arguments, **options)


def convolve(case: Case, layout: str, arguments: list[Tensor | None]) -> Tensor:
    x, weight, columns, bias = arguments
    return ops.column_sparse_conv2d(
        laid_out(x, layout), fenced(weight), columns, fenced(bias), kernel_size=case.kernel, **case.options
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@by_case
def test_agrees_with_the_reference(case: Case, layout: str, isa: str) -> None:
    arguments = case.column_sparse_arguments()
    assert_agrees(convolve(case, layout, arguments), case, arguments)


@by_format
@by_case
def test_agrees_with_the_reference_in_float64(case: Case, layout: str) -> None:
    arguments = case.column_sparse_arguments(torch.float64)
    assert_agrees(convolve(case, layout, arguments), case, arguments)


@pytest.mark.parametrize("density", DENSITIES.values(), ids=DENSITIES)
@by_format
@by_case
def test_any_number_of_columns_may_be_kept(case: Case, layout: str, density: float, isa: str) -> None:
    arguments = case.column_sparse_arguments(density=density)
    assert_agrees(convolve(case, layout, arguments), case, arguments)


@pytest.mark.parametrize("density", [1.0, 0.3, 0.03])
@by_format
@pytest.mark.parametrize("case", LARGE, ids=str)
def test_large_patches_may_lose_columns(
    case: Case, layout: str, density: float, threads: int, isa: str
) -> None:
    arguments = case.column_sparse_arguments(density=density)
    assert_agrees(convolve(case, layout, arguments), case, arguments)


@by_format
@pytest.mark.parametrize("case", CASES[::3], ids=str)
def test_with_all_columns_it_is_the_dense_convolution(case: Case, layout: str, isa: str) -> None:
    x, weight, columns, bias = case.column_sparse_arguments(density=1.0)
    y = convolve(case, layout, [x, weight, columns, bias])
    dense = weight.view(case.weight_size)
    reference.assert_within_bound(y, reference.conv2d, x, dense, bias, **case.options)


@by_format
@pytest.mark.parametrize("case", CASES[::3], ids=str)
def test_without_columns_the_bias_is_left(case: Case, layout: str, isa: str) -> None:
    x, weight, columns, bias = case.column_sparse_arguments()
    y = convolve(case, layout, [x, weight[:, :0], columns[..., :0], bias])
    expected = torch.zeros(()) if bias is None else bias[:, None, None]
    assert torch.equal(y, expected.expand_as(y))


@by_format
@by_case
def test_packed_weights_give_the_same(case: Case, layout: str, isa: str) -> None:
    x, weight, columns, bias = arguments = case.column_sparse_arguments()
    packed = fenced(
        torch.ops.cnnkern.column_sparse_conv2d_pack(weight, columns, list(case.kernel), case.groups)
    )
    geometry = [*case.weight_size, *case.stride, *case.padding, *case.dilation, case.groups]
    y = torch.ops.cnnkern.column_sparse_conv2d_packed(laid_out(x, layout), packed, bias, geometry, columns)
    assert_agrees(y, case, arguments)


def test_packed_weights_do_not_depend_on_the_instruction_set(isa: str) -> None:
    # the taps 0, 1, 2 of channel 0, tap 1 of channel 1, tap 0 of channel 2: by tap, then by channel
    columns, order = torch.tensor([0, 1, 2, 5, 8], dtype=torch.int32), [0, 4, 1, 3, 2]
    weight = torch.arange(17 * 5.0).reshape(17, 5)
    packed = torch.ops.cnnkern.column_sparse_conv2d_pack(weight, columns, [2, 2], 1)
    panels = torch.cat([weight[:, order], torch.zeros(15, 5)]).unflatten(0, (2, 16))
    assert torch.equal(packed, panels.transpose(1, 2).flatten())


@pytest.mark.parametrize("columns", [[3, 4, 5, 12, 13, 14, 21, 22, 23], [0, 4, 8, 9, 13, 17, 18, 22, 26]])
@by_format
def test_kernels_may_shrink_to_the_same_shape_in_all_channels(
    columns: list[int], layout: str, isa: str
) -> None:
    case = Case((2, 3, 9, 17), 33, (3, 3), padding=(1, 1))
    x, _, _, bias = case.column_sparse_arguments()
    arguments = [x, torch.randn(33, 9), torch.tensor(columns, dtype=torch.int32), bias]
    assert_agrees(convolve(case, layout, arguments), case, arguments)


@by_format
def test_what_no_column_reads_does_not_matter(layout: str, isa: str) -> None:
    case = Case((1, 5, 6, 19), 17, (3, 3), padding=(1, 1))
    x, _, _, bias = case.column_sparse_arguments()
    columns = torch.arange(9, 18, dtype=torch.int32)  # channel 1 alone
    arguments = [x, torch.randn(17, 9), columns, bias]
    expected = convolve(case, layout, arguments)
    x[:, [0, 2, 3, 4]] = torch.nan
    assert torch.equal(convolve(case, layout, arguments), expected)


@by_format
@pytest.mark.parametrize("case", SHARED, ids=str)
def test_is_shared_between_threads_and_deterministic(case: Case, layout: str, threads: int, isa: str) -> None:
    arguments = case.column_sparse_arguments()
    y = convolve(case, layout, arguments)
    assert_agrees(y, case, arguments)
    for _ in range(3):
        assert torch.equal(y, convolve(case, layout, arguments))


def test_columns_and_weights_may_be_sliced(isa: str) -> None:
    case = Case((1, 6, 5, 7), 34, (3, 2), groups=2)
    x, weight, columns, bias = case.column_sparse_arguments()
    expected = convolve(case, "contiguous", [x, weight, columns, bias])
    sliced = torch.stack([columns, -columns - 1], 2)[..., 0]
    strided = torch.stack([weight, torch.full_like(weight, torch.nan)], 2)[..., 0]
    y = ops.column_sparse_conv2d(x, strided, sliced, bias, kernel_size=case.kernel, **case.options)
    assert torch.equal(y, expected)
