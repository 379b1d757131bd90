"""A linear layer of quantized numbers: exact sums in int32, then integers again or float32.

`cnnkern.reference.int8_epilogue` is the formula that follows the sums, to the last bit.
"""

from typing import Any

import torch
from torch import Tensor

from cnnkern.ops.arguments import check_packed, shape_of
from cnnkern.ops.dispatch import register_fake, run
from cnnkern.ops.int8_arguments import (
    check_activation,
    check_kinds,
    check_quantization,
    check_sum,
    matrix_size,
    output_dtype,
    packed_length,
    register_integers,
)

_int8_linear = torch.ops.cnnkern.int8_linear.default


def int8_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    x_scale: float,
    x_zero_point: int,
    weight_scale: Tensor,
    out_scale: float | None = None,
    out_zero_point: int = 0,
    activation: str | None = None,
) -> Tensor:
    """x Wᵀ + bias of quantized numbers: `x` (..., C), `weight` (K, C); the rest as for `int8_conv2d`.

    Returns:
        (..., K), float32, or x's type where out_scale says so.

    Raises:
        ValueError: a wrong shape or number.
        TypeError: something that is no tensor, or no number.
        NotImplementedError: a dtype or a device without a kernel.
    """
    numbers = x_scale, x_zero_point, out_scale, out_zero_point
    check_activation(activation)
    _check_linear(x, weight, bias, weight_scale, *numbers)
    return run(_int8_linear, x, weight, bias, weight_scale, *numbers, activation is not None)


def _check_linear(
    x: Any,
    weight: Any,
    bias: Any,
    weight_scale: Any,
    x_scale: Any,
    x_zero_point: Any,
    out_scale: Any,
    out_zero_point: Any,
) -> torch.Size:
    """The shape of the output, or an error that says what is wrong with the arguments."""
    k, c = matrix_size("weight", weight, "(K, C)")
    _check_rows(x, c)
    check_sum("weight", c)
    check_kinds("x", x, x_zero_point, weight=weight)
    check_quantization(x, bias, weight_scale, x_scale, out_scale, out_zero_point, k)
    return (*x.shape[:-1], k)


def _check_rows(x: Any, columns: int) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"x: expected a tensor (..., C), got {type(x).__name__}")
    if x.dim() < 1 or x.shape[-1] != columns:
        raise ValueError(f"x: expected {columns} elements in the last dimension, got {tuple(x.shape)}")


@register_fake("int8_linear")
def _linear_fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    weight_scale: Tensor,
    x_scale: float,
    x_zero_point: int,
    out_scale: float | None,
    out_zero_point: int,
    relu: bool,
) -> Tensor:
    numbers = x_scale, x_zero_point, out_scale, out_zero_point
    shape = _check_linear(x, weight, bias, weight_scale, *numbers)
    return x.new_empty(shape, dtype=output_dtype(x, out_scale))


@register_fake("int8_linear_packed")
def _linear_packed_fake(
    x: Tensor,
    packed: Tensor,
    bias: Tensor | None,
    weight_scale: Tensor,
    x_scale: float,
    x_zero_point: int,
    out_scale: float | None,
    out_zero_point: int,
    relu: bool,
) -> Tensor:
    (k,) = shape_of("weight_scale", weight_scale, "(K)", 1)
    check_kinds("x", x, x_zero_point, packed=packed)
    check_packed(packed, packed_length((k, x.shape[-1], 1, 1), 1, packed))
    check_quantization(x, bias, weight_scale, x_scale, out_scale, out_zero_point, k)
    return x.new_empty((*x.shape[:-1], k), dtype=output_dtype(x, out_scale))


register_integers("int8_linear")
register_integers("int8_linear_packed")
