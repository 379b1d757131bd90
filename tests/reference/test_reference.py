"""The oracle is right, and the bound tells a right kernel from a wrong one."""

import pytest
import torch
import torch.nn.functional as F

from cnnkern import reference
from tests.ops.cases import GEOMETRY, GROUPS, Case

CASES = GEOMETRY + GROUPS


@pytest.mark.parametrize("case", CASES, ids=str)
def test_conv2d_is_the_weight_matrix_times_the_patch_matrix(case: Case) -> None:
    x, weight, bias = case.conv2d_arguments(torch.float64)
    geometry = {name: value for name, value in case.options.items() if name != "groups"}
    rows = weight.flatten(1).unflatten(0, (case.groups, -1))
    patches = [reference.im2col(part, case.kernel, **geometry) for part in x.chunk(case.groups, 1)]
    expected = torch.cat([row @ patch for row, patch in zip(rows, patches, strict=True)], 1)
    y = reference.conv2d(x, weight, bias, **case.options)
    torch.testing.assert_close(y.flatten(2), expected + (0 if bias is None else bias[:, None]))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_cp_conv2d_is_four_convolutions(case: Case) -> None:
    x, factor_c, factor_h, factor_w, factor_k, bias = case.cp_arguments(torch.float64)
    (stride_h, stride_w), (padding_h, padding_w), (dilation_h, dilation_w) = (
        case.stride,
        case.padding,
        case.dilation,
    )
    rank, groups = case.rank, case.groups
    expected = F.conv2d(x, factor_c[:, :, None, None], groups=groups)
    expected = F.conv2d(
        expected, factor_h[:, None, :, None], None, (stride_h, 1), (padding_h, 0), (dilation_h, 1), rank
    )
    expected = F.conv2d(
        expected, factor_w[:, None, None, :], None, (1, stride_w), (0, padding_w), (1, dilation_w), rank
    )
    expected = F.conv2d(expected, factor_k[:, :, None, None], bias, groups=groups)
    y = reference.cp_conv2d(x, factor_c, factor_h, factor_w, factor_k, bias, **case.options)
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_column_sparse_conv2d_is_the_kept_columns_times_the_rows_of_the_patch_matrix(case: Case) -> None:
    x, weight, columns, bias = case.column_sparse_arguments(torch.float64)
    geometry = {name: value for name, value in case.options.items() if name != "groups"}
    patches = [reference.im2col(part, case.kernel, **geometry) for part in x.chunk(case.groups, 1)]
    kept = columns.long().view(case.groups, -1)
    parts = zip(weight.chunk(case.groups), patches, kept, strict=True)
    expected = torch.cat([rows @ patch[:, index] for rows, patch, index in parts], 1)
    y = reference.column_sparse_conv2d(x, weight, columns, bias, kernel_size=case.kernel, **case.options)
    torch.testing.assert_close(y.flatten(2), expected + (0 if bias is None else bias[:, None]))


def test_reconstruct_is_the_sum_over_the_components_of_each_group() -> None:
    case = Case((1, 4, 3, 3), 6, (3, 2), groups=2, rank=4)
    _, c, h, w, k, _ = case.cp_arguments(torch.float64)
    weight = torch.zeros(6, 2, 3, 2, dtype=torch.float64)
    for channel in range(6):
        for component in range(2):
            rank = channel // 3 * 2 + component
            rank_one = c[rank, :, None, None] * h[rank, None, :, None] * w[rank, None, None, :]
            weight[channel] += k[channel, component] * rank_one
    torch.testing.assert_close(reference.reconstruct(c, h, w, k, groups=2), weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_floating_point_dtype_is_computed_in_itself(dtype: torch.dtype) -> None:
    case = GROUPS[0]
    assert reference.conv2d(*case.conv2d_arguments(dtype), **case.options).dtype == dtype
    assert reference.cp_conv2d(*case.cp_arguments(dtype), **case.options).dtype == dtype


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_right_result_is_within_the_bound(case: Case) -> None:
    for operation, arguments in (
        (reference.conv2d, case.conv2d_arguments()),
        (reference.cp_conv2d, case.cp_arguments()),
    ):
        y = operation(*arguments, **case.options)
        reference.assert_within_bound(y, operation, *arguments, **case.options)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_sum_that_lacks_one_product_is_not(case: Case) -> None:
    x, weight, bias = case.conv2d_arguments()
    lacking = weight.clone()
    lacking[0, 0, 0, 0] = 0
    y = reference.conv2d(x, lacking, bias, **case.options)
    with pytest.raises(AssertionError, match="out of bounds"):
        reference.assert_within_bound(y, reference.conv2d, x, weight, bias, **case.options)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda y: y.index_fill(3, torch.tensor(0), torch.nan), "out of bounds"),
        (lambda y: y[:, 1:], "shape"),
        (lambda y: y.double(), "dtype"),
    ],
)
def test_nan_and_wrong_kinds_of_result_are_never_within_the_bound(wrong, message: str) -> None:
    arguments = CASES[0].conv2d_arguments()
    y = reference.conv2d(*arguments, **CASES[0].options)
    with pytest.raises(AssertionError, match=message):
        reference.assert_within_bound(wrong(y), reference.conv2d, *arguments, **CASES[0].options)
