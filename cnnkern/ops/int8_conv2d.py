"""Convolution of quantized numbers: exact sums in int32, then integers again or float32.

`cnnkern.reference.int8_epilogue` is the formula that follows the sums, to the last bit.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cnnkern.ops.arguments import (
    IntPair,
    Pair,
    check_groups,
    check_not_empty,
    check_packed,
    convolution_size,
    geometry,
    packed_geometry,
    shape_of,
)
from cnnkern.ops.dispatch import register_fake, run
from cnnkern.ops.fakes import empty_output
from cnnkern.ops.int8_arguments import (
    check_activation,
    check_kinds,
    check_quantization,
    check_sum,
    output_dtype,
    packed_length,
    register_integers,
)

_int8_conv2d = torch.ops.cnnkern.int8_conv2d.default


def int8_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    x_scale: float,
    x_zero_point: int,
    weight_scale: Tensor,
    out_scale: float | None = None,
    out_zero_point: int = 0,
    stride: IntPair = 1,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    groups: int = 1,
    activation: str | None = None,
) -> Tensor:
    """2-D convolution of quantized numbers.

    Args:
        x: (N, C, H, W), uint8 or int8, contiguous or channels_last; any other stride is made contiguous.
        weight: (K, C/groups, kH, kW), int8, in any memory format. A sum has at most 65,793 products.
        bias: (K) float32, real numbers; or None.
        x_scale: positive.
        x_zero_point: a value of x's type. Padding is with it, and so with the real number zero.
        weight_scale: (K) float32, positive, which is checked on the CPU alone.
        out_scale: positive, for integers of x's type; None for float32.
        out_zero_point: a value of x's type.
        stride, padding, dilation: int or pair (vertical, horizontal), in pixels.
        groups: divides C and K; C for a depthwise convolution.
        activation: None, or "relu".

    Returns:
        (N, K, oH, oW) in x's memory format: float32, or x's type where out_scale says so, rounded to nearest
        with ties to even.

    Raises:
        ValueError: a wrong shape or number.
        TypeError: something that is no tensor, or no number.
        NotImplementedError: a dtype or a device without a kernel.
    """
    stride, padding, dilation = geometry(stride, padding, dilation)
    numbers = x_scale, x_zero_point, out_scale, out_zero_point
    check_activation(activation)
    _check_conv2d(x, weight, bias, weight_scale, *numbers, stride, padding, dilation, groups)
    relu = activation is not None
    return run(_int8_conv2d, x, weight, bias, weight_scale, *numbers, stride, padding, dilation, groups, relu)


def _check_conv2d(
    x: Any,
    weight: Any,
    bias: Any,
    weight_scale: Any,
    x_scale: Any,
    x_zero_point: Any,
    out_scale: Any,
    out_zero_point: Any,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> tuple[int, int, int, int]:
    """The shape of the output, or an error that says what is wrong with the arguments."""
    size = shape_of("weight", weight, "(K, C/groups, kH, kW)", 4)
    check_not_empty("weight", size)
    shape = convolution_size(x, size, stride, padding, dilation, groups)
    check_sum("weight", size[1] * size[2] * size[3])
    check_kinds("x", x, x_zero_point, weight=weight)
    check_quantization(x, bias, weight_scale, x_scale, out_scale, out_zero_point, size[0])
    return shape


@register_fake("int8_conv2d")
def _conv2d_fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    weight_scale: Tensor,
    x_scale: float,
    x_zero_point: int,
    out_scale: float | None,
    out_zero_point: int,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    relu: bool,
) -> Tensor:
    numbers = x_scale, x_zero_point, out_scale, out_zero_point
    pairs = geometry(stride, padding, dilation)
    shape = _check_conv2d(x, weight, bias, weight_scale, *numbers, *pairs, groups)
    return empty_output(x, shape, output_dtype(x, out_scale))


@register_fake("int8_conv2d_pack")
def _conv2d_pack_fake(weight: Tensor, groups: int) -> Tensor:
    size = shape_of("weight", weight, "(K, C/groups, kH, kW)", 4)
    check_not_empty("weight", size)
    check_groups(groups, size[0])
    check_sum("weight", size[1] * size[2] * size[3])
    return weight.new_empty(packed_length(size, groups, weight))


@register_fake("int8_conv2d_packed")
def _conv2d_packed_fake(
    x: Tensor,
    packed: Tensor,
    bias: Tensor | None,
    geometry: Sequence[int],
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
    check_kinds("x", x, x_zero_point, packed=packed)
    check_packed(packed, packed_length(size, groups, packed))
    check_quantization(x, bias, weight_scale, x_scale, out_scale, out_zero_point, size[0])
    return empty_output(x, shape, output_dtype(x, out_scale))


register_integers("int8_conv2d")
register_integers("int8_conv2d_packed")
