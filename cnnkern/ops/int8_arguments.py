"""What the int8 operations share: what their arguments may be, and how long a packed weight is.

A quantized x stands for x_scale·(x − x_zero_point), a weight of output channel k for weight_scale[k]·weight.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cnnkern.ops.arguments import (
    check_bias,
    check_device,
    check_not_empty,
    check_same_device,
    shape_of,
    up_to_chunk,
    up_to_panel,
)
from cnnkern.ops.dispatch import register_without_gradient

ACTIVATION_DTYPES = (torch.uint8, torch.int8)

# No sum of more products is taken: an activation differs from its zero point by at most 255, a weight from
# zero by at most 128, and so much of them cannot leave int32.
LONGEST_SUM = (2**31 - 1) // (255 * 128)


def check_zero_point(name: str, value: Any, dtype: torch.dtype) -> None:
    """`value` is an int that `dtype` has."""
    if type(value) is not int and not isinstance(value, torch.SymInt):
        raise TypeError(f"{name}: expected an int, got {value!r}")
    limits = torch.iinfo(dtype)
    if not limits.min <= value <= limits.max:
        raise ValueError(f"{name}: expected {limits.min} to {limits.max} for {dtype}, got {value}")


def check_scale(name: str, value: Any) -> None:
    """`value` is a positive number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, torch.SymFloat)):
        raise TypeError(f"{name}: expected a float, got {value!r}")
    if not value > 0 or value == math.inf:
        raise ValueError(f"{name}: expected a positive number, got {value}")


def check_sum(name: str, length: int) -> None:
    """A sum of `length` products cannot leave int32."""
    if length > LONGEST_SUM:
        raise ValueError(
            f"{name}: expected sums of at most {LONGEST_SUM} products, which cannot leave int32, got {length}"
        )


def check_activation(activation: Any) -> None:
    """`activation` is one that the kernels apply."""
    if activation not in (None, "relu"):
        raise ValueError(f"activation: expected None or 'relu', got {activation!r}")


def check_kinds(name: str, x: Tensor, zero_point: Any, **weights: Tensor) -> None:
    """`x` is of 8 bits and has the zero point; the weights are int8 on x's device."""
    check_device(name, x)
    if x.dtype not in ACTIVATION_DTYPES:
        raise NotImplementedError(f"{name}: expected uint8 or int8, got {x.dtype}: no kernel for it")
    zero_name = f"{name}_zero_point"
    check_zero_point(zero_name, zero_point, x.dtype)
    for weight_name, weight in weights.items():
        check_like(name, x, weight_name, weight, torch.int8)


def check_on_cpu(name: str, x: Tensor) -> None:
    """What an operation that has kernels for the CPU alone asks of `x`."""
    if x.device.type not in ("cpu", "meta"):
        raise NotImplementedError(
            f"{name}: expected a tensor on the CPU, got one on {x.device}: no kernel for it"
        )


def check_like(name: str, x: Tensor, other_name: str, other: Tensor, dtype: torch.dtype) -> None:
    """`other` is of `dtype`, on the device of `x`."""
    check_same_device(other_name, other, name, x)
    if other.dtype is not dtype:
        raise NotImplementedError(f"{other_name}: expected {dtype}, got {other.dtype}: no kernel for it")


def check_quantization(
    x: Tensor,
    bias: Tensor | None,
    weight_scale: Tensor,
    x_scale: Any,
    out_scale: Any,
    out_zero_point: Any,
    out_channels: int,
    scale_name: str = "weight_scale",
) -> None:
    """Everything about the scales, the zero point of the output and the bias; their values where they are
    numbers. Those of `weight_scale` are checked by the operation itself, on the CPU: to look at them on a GPU
    would be to wait for it."""
    check_bias(bias, out_channels)
    (length,) = shape_of(scale_name, weight_scale, "(K)", 1)
    if length != out_channels:
        raise ValueError(
            f"{scale_name}: expected {out_channels} elements, one an output channel, got {length}"
        )
    for name, tensor in ((scale_name, weight_scale), ("bias", bias)):
        if tensor is not None:
            check_like("x", x, name, tensor, torch.float32)
    check_scale("x_scale", x_scale)
    if out_scale is not None:
        check_scale("out_scale", out_scale)
        check_zero_point("out_zero_point", out_zero_point, x.dtype)


def matrix_size(name: str, matrix: Any, axes: str) -> torch.Size:
    """The size of an int8 matrix that has the axes named by `axes`."""
    size = shape_of(name, matrix, axes, 2)
    check_not_empty(name, size)
    if matrix.dtype is not torch.int8:
        raise NotImplementedError(f"{name}: expected torch.int8, got {matrix.dtype}: no kernel for it")
    return size


def packed_length(weight_size: Sequence[int], groups: int, like: Tensor) -> int:
    """Elements of a packed weight (K, C/groups, kH, kW), int8, on the device of `like`.

    On the CPU: panels of 16 output channels in each group, in each row of the kernel whole quads; a byte for
    each panel, and four for each output channel. On CUDA: whole chunks of channels, and four bytes for each
    output channel; a depthwise weight is one row of output channels for each tap.
    """
    k, c, kernel_h, kernel_w = weight_size
    depthwise = c == 1 and groups > 1
    if like.is_cuda:
        taps = kernel_h * kernel_w
        return taps * up_to_chunk(k, like) if depthwise else k * (taps * up_to_chunk(c, like) + 4)
    if depthwise:
        columns = up_to_panel(k)
        return columns * kernel_h * kernel_w + columns // 16 + 4 * k
    return packed_matrices_length(k, kernel_w * c, groups, kernel_h)


def packed_matrices_length(k: int, depth: int, groups: int, runs: int = 1) -> int:
    """Elements of a matrix (k, runs·depth), packed on the CPU, whose rows are shared out to the groups: see
    above."""
    columns = groups * up_to_panel(k // groups)
    return columns * runs * ((depth + 3) // 4 * 4) + columns // 16 + 4 * k


def output_dtype(x: Tensor, out_scale: float | None) -> torch.dtype:
    """Of what comes out of an operation on `x`."""
    return torch.float32 if out_scale is None else x.dtype


def register_integers(name: str) -> None:
    """What `cnnkern::name` does under autograd and autocast."""
    register_without_gradient(name, "integers have none; see cnnkern.quantization for training")
    for device in ("cpu", "cuda"):
        torch.library.register_autocast(f"cnnkern::{name}", device, torch.float32)  # scales and bias
