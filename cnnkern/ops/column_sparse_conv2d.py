"""Convolution with the kept columns of a pruned weight matrix.

Lebedev, Lempitsky: Fast ConvNets Using Group-wise Brain Damage, CVPR 2016.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cnnkern.ops.arguments import (
    IntPair,
    Pair,
    check_convolution,
    check_gradient,
    check_groups,
    check_kind,
    check_not_empty,
    check_packed,
    check_same_device,
    geometry,
    packed_geometry,
    pair,
    shape_of,
    up_to_chunk,
    up_to_panel,
)
from cnnkern.ops.dispatch import (
    register_autocast,
    register_fake,
    register_without_gradient,
    run,
)
from cnnkern.ops.fakes import empty_gradients, empty_output

_column_sparse_conv2d = torch.ops.cnnkern.column_sparse_conv2d.default
_column_sparse_conv2d_backward = torch.ops.cnnkern.column_sparse_conv2d_backward.default


def column_sparse_conv2d(
    x: Tensor,
    weight: Tensor,
    columns: Tensor,
    bias: Tensor | None = None,
    *,
    kernel_size: IntPair,
    stride: IntPair = 1,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    groups: int = 1,
) -> Tensor:
    """2-D convolution with a weight matrix (K, C/groups·kH·kW) that has values in some columns alone.

    Args:
        x: (N, C, H, W), float32 or float64 on the CPU, float32, float16 or bfloat16 on CUDA, contiguous or
            channels_last; any other stride is made contiguous.
        weight: (K, nnz) of x's dtype: the kept columns.
        columns: which these are, (nnz), or (groups, nnz) for more than one group, int32: indices
            (c·kH + i)·kW + j with c counted within the group, strictly increasing in each group. None at all
            (nnz = 0) leaves the bias. On CUDA their values are not looked at, since that would be to wait
            for the GPU: one outside the matrix counts as a column of zeros.
        bias: (K) or None.
        kernel_size: int or pair (kH, kW).
        stride, padding, dilation: int or pair (vertical, horizontal), in pixels; padding is with zeros.
        groups: divides C and K; each group has columns of its own.

    Returns:
        (N, K, oH, oW) in x's memory format, with oH = (H + 2·padding − dilation·(kH − 1) − 1) // stride + 1.

    Raises:
        ValueError: a wrong shape or number; on the CPU, columns that are not sorted, or outside the matrix.
        TypeError: something that is no tensor, or no int.
        NotImplementedError: a dtype or a device without a kernel.

    Differentiable once in x, weight and bias.
    """
    kernel_size = pair("kernel_size", kernel_size, 1)
    stride, padding, dilation = geometry(stride, padding, dilation)
    check_column_sparse_conv2d(x, weight, columns, bias, kernel_size, stride, padding, dilation, groups)
    return run(
        _column_sparse_conv2d, x, weight, columns, bias, kernel_size, stride, padding, dilation, groups
    )


def check_column_sparse_conv2d(
    x: Tensor,
    weight: Tensor,
    columns: Tensor,
    bias: Tensor | None,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> tuple[int, int, int, int]:
    """The shape of the output, or an error that says what is wrong with the arguments. The values of
    `columns` are the binding's to check, at every call: the CPU's kernels read through them."""
    size = weight_size(x, weight, columns, kernel_size, groups)
    return check_convolution(x, {"weight": weight}, bias, size, stride, padding, dilation, groups)


def weight_size(
    x: Tensor, weight: Tensor, columns: Tensor, kernel_size: Pair, groups: int
) -> tuple[int, int, int, int]:
    """(K, C/groups, kH, kW) of the dense weight that the kept columns are of."""
    k, kept = _weight_size(weight, columns, groups)
    channels = shape_of("x", x, "(N, C, H, W)", 4)[1]
    if channels < 1 or channels % groups:
        raise ValueError(f"x: expected channels that {groups} groups divide, got {channels}")
    check_count(kept, channels // groups, kernel_size)
    return k, channels // groups, *kernel_size


def sparse_weight_size(weight: Tensor, groups: int) -> tuple[int, int]:
    """(K, nnz) of a weight that has output channels."""
    k, kept = shape_of("weight", weight, "(K, nnz)", 2)
    check_groups(groups, k)
    if k < 1:
        raise ValueError("weight: expected at least 1 output channel, got 0")
    return k, kept


def _weight_size(weight: Tensor, columns: Tensor, groups: int) -> tuple[int, int]:
    """(K, nnz) of a weight and columns that fit together."""
    k, kept = sparse_weight_size(weight, groups)
    if kept_columns(columns, groups) != kept:
        raise ValueError(
            f"columns: expected {kept} of them, as many as weight has, got {kept_columns(columns, groups)}"
        )
    check_same_device("columns", columns, "weight", weight)
    return k, kept


def kept_columns(columns: Tensor, groups: int) -> int:
    """How many columns a group keeps, or an error that says what is wrong with them."""
    if groups == 1:
        (kept,) = shape_of("columns", columns, "(nnz)", 1)
    else:
        rows, kept = shape_of("columns", columns, "(groups, nnz)", 2)
        if rows != groups:
            raise ValueError(f"columns: expected {groups} rows, one a group, got {rows}")
    if columns.dtype is not torch.int32:
        raise ValueError(f"columns: expected torch.int32, got {columns.dtype}")
    return kept


def check_count(kept: int, group_channels: int, kernel_size: Sequence[int]) -> None:
    """No more columns are kept than there are."""
    total = group_channels * kernel_size[0] * kernel_size[1]
    if kept > total:
        raise ValueError(f"columns: expected no more than the {total} that there are, got {kept}")


def packed_length(out_channels: int, kept: int, groups: int, like: Tensor) -> int:
    """Elements of a packed weight (K, nnz) with the device and the dtype of `like`.

    On the CPU panels of 16 output channels in each group; on CUDA rows of whole chunks, and for each group a
    table that has two int32 for each of their elements.
    """
    if like.is_cuda:
        return up_to_chunk(max(kept, 1), like) * (out_channels + groups * 8 // like.element_size())
    return groups * up_to_panel(out_channels // groups) * kept


@register_fake("column_sparse_conv2d")
def _fake(
    x: Tensor,
    weight: Tensor,
    columns: Tensor,
    bias: Tensor | None,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> Tensor:
    pairs = pair("kernel_size", kernel_size, 1), *geometry(stride, padding, dilation)
    shape = check_column_sparse_conv2d(x, weight, columns, bias, *pairs, groups)
    return empty_output(x, shape)


@register_fake("column_sparse_conv2d_pack")
def _pack_fake(weight: Tensor, columns: Tensor, kernel_size: Any, groups: int) -> Tensor:
    pair("kernel_size", kernel_size, 1)
    k, kept = _weight_size(weight, columns, groups)
    check_kind(weight=weight)
    return weight.new_empty(packed_length(k, kept, groups, weight))


@register_fake("column_sparse_conv2d_packed")
def _packed_fake(
    x: Tensor, packed: Tensor, bias: Tensor | None, geometry: Sequence[int], columns: Tensor
) -> Tensor:
    weight_size, *pairs, groups = packed_geometry(4, geometry)
    check_not_empty("geometry", weight_size)
    k, c, *kernel_size = weight_size
    shape = check_convolution(x, {"packed": packed}, bias, weight_size, *pairs, groups)
    kept = kept_columns(columns, groups)
    check_same_device("columns", columns, "x", x)
    check_count(kept, c, kernel_size)
    check_packed(packed, packed_length(k, kept, groups, packed))
    return empty_output(x, shape)


@register_fake("column_sparse_conv2d_backward")
def _backward_fake(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    columns: Tensor,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    pairs = pair("kernel_size", kernel_size, 1), *geometry(stride, padding, dilation)
    shape = check_column_sparse_conv2d(x, weight, columns, None, *pairs, groups)
    check_gradient(grad, x, shape)
    return empty_gradients(x, weight, shape[1], output_mask)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, columns, _, *ctx.geometry = inputs
    ctx.save_for_backward(x, weight, columns)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needs = ctx.needs_input_grad
    asked = needs[0], needs[1], needs[3]
    gradients = run(_column_sparse_conv2d_backward, grad, *ctx.saved_tensors, *ctx.geometry, asked)
    for_x, for_weight, for_bias = (g if wanted else None for g, wanted in zip(gradients, asked, strict=True))
    return for_x, for_weight, None, for_bias, *[None] * 5


torch.library.register_autograd("cnnkern::column_sparse_conv2d", _backward, setup_context=_keep)
register_without_gradient("column_sparse_conv2d_backward", "there are no second derivatives")
register_without_gradient(
    "column_sparse_conv2d_pack", "call cnnkern.ops.column_sparse_conv2d with the weight itself"
)
register_without_gradient(
    "column_sparse_conv2d_packed", "call cnnkern.ops.column_sparse_conv2d with the weight itself"
)
register_autocast("column_sparse_conv2d")
register_autocast("column_sparse_conv2d_packed")
