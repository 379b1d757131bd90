"""Convolution of quantized numbers with the kept columns of a pruned weight matrix.

The columns are those of `column_sparse_conv2d`, the numbers those of `int8_conv2d`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cnnkern.ops.arguments import (
    IntPair,
    Pair,
    check_not_empty,
    check_packed,
    check_same_device,
    convolution_size,
    geometry,
    packed_geometry,
    pair,
)
from cnnkern.ops.column_sparse_conv2d import check_count, kept_columns, sparse_weight_size, weight_size
from cnnkern.ops.dispatch import register_fake, run
from cnnkern.ops.fakes import empty_output
from cnnkern.ops.int8_arguments import (
    check_activation,
    check_kinds,
    check_on_cpu,
    check_quantization,
    check_sum,
    output_dtype,
    packed_matrices_length,
    register_integers,
)

_int8_column_sparse_conv2d = torch.ops.cnnkern.int8_column_sparse_conv2d.default


def int8_column_sparse_conv2d(
    x: Tensor,
    weight: Tensor,
    columns: Tensor,
    bias: Tensor | None = None,
    *,
    x_scale: float,
    x_zero_point: int,
    weight_scale: Tensor,
    out_scale: float | None = None,
    out_zero_point: int = 0,
    kernel_size: IntPair,
    stride: IntPair = 1,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    groups: int = 1,
    activation: str | None = None,
) -> Tensor:
    """2-D convolution of quantized numbers with a weight matrix that has values in some columns alone.

    Args:
        x: (N, C, H, W), uint8 or int8, contiguous or channels_last; any other stride is made contiguous.
        weight: (K, nnz), int8: the kept columns, at most 65,793.
        columns: which these are, as in `column_sparse_conv2d`: (nnz) int32, or (groups, nnz).
        bias: (K) float32, real numbers; or None.
        kernel_size: int or pair (kH, kW).
        x_scale, x_zero_point, weight_scale, out_scale, out_zero_point, stride, padding, dilation, groups,
            activation: as in `int8_conv2d`; padding is with x_zero_point.

    Returns:
        What `int8_conv2d` returns for the weight with zeros in the other columns, to the last bit.

    Raises:
        ValueError: a wrong shape or number; columns that are not sorted, or outside the matrix.
        TypeError: something that is no tensor, or no number.
        NotImplementedError: a dtype or a device without a kernel.
    """
    pairs = pair("kernel_size", kernel_size, 1), *geometry(stride, padding, dilation)
    numbers = x_scale, x_zero_point, out_scale, out_zero_point
    check_activation(activation)
    _check(x, weight, columns, bias, weight_scale, *numbers, *pairs, groups)
    relu = activation is not None
    return run(
        *(_int8_column_sparse_conv2d, x, weight, columns, bias, weight_scale, *numbers, *pairs, groups, relu)
    )


def _check(
    x: Any,
    weight: Any,
    columns: Any,
    bias: Any,
    weight_scale: Any,
    x_scale: Any,
    x_zero_point: Any,
    out_scale: Any,
    out_zero_point: Any,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> tuple[int, int, int, int]:
    """The shape of the output, or an error that says what is wrong with the arguments; the values of
    `columns` are the binding's to check."""
    size = weight_size(x, weight, columns, kernel_size, groups)
    shape = convolution_size(x, size, stride, padding, dilation, groups)
    check_sum("weight", weight.shape[1])
    check_on_cpu("x", x)
    check_kinds("x", x, x_zero_point, weight=weight)
    check_quantization(x, bias, weight_scale, x_scale, out_scale, out_zero_point, size[0])
    return shape


@register_fake("int8_column_sparse_conv2d")
def _fake(
    x: Tensor,
    weight: Tensor,
    columns: Tensor,
    bias: Tensor | None,
    weight_scale: Tensor,
    x_scale: float,
    x_zero_point: int,
    out_scale: float | None,
    out_zero_point: int,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    relu: bool,
) -> Tensor:
    numbers = x_scale, x_zero_point, out_scale, out_zero_point
    pairs = pair("kernel_size", kernel_size, 1), *geometry(stride, padding, dilation)
    shape = _check(x, weight, columns, bias, weight_scale, *numbers, *pairs, groups)
    return empty_output(x, shape, output_dtype(x, out_scale))


@register_fake("int8_column_sparse_conv2d_pack")
def _pack_fake(weight: Tensor, groups: int) -> Tensor:
    k, kept = sparse_weight_size(weight, groups)
    check_sum("weight", kept)
    return weight.new_empty(packed_matrices_length(k, kept, groups))


@register_fake("int8_column_sparse_conv2d_packed")
def _packed_fake(
    x: Tensor,
    packed: Tensor,
    bias: Tensor | None,
    geometry: Sequence[int],
    columns: Tensor,
    weight_scale: Tensor,
    x_scale: float,
    x_zero_point: int,
    out_scale: float | None,
    out_zero_point: int,
    relu: bool,
) -> Tensor:
    size, *pairs, groups = packed_geometry(4, geometry)
    check_not_empty("geometry", size)
    shape = convolution_size(x, size, *pairs, groups)
    check_on_cpu("x", x)
    check_kinds("x", x, x_zero_point, packed=packed)
    kept = kept_columns(columns, groups)
    check_same_device("columns", columns, "x", x)
    check_count(kept, size[1], size[2:])
    check_packed(packed, packed_matrices_length(size[0], kept, groups))
    check_quantization(x, bias, weight_scale, x_scale, out_scale, out_zero_point, size[0])
    return empty_output(x, shape, output_dtype(x, out_scale))


register_integers("int8_column_sparse_conv2d")
register_integers("int8_column_sparse_conv2d_packed")
