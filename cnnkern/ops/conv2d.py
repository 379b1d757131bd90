"""Dense convolution by lowering: im2col inside the packing of a blocked GEMM, never written out."""

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
    geometry,
    packed_geometry,
    shape_of,
    up_to_chunk,
    up_to_panel,
)
from cnnkern.ops.dispatch import (
    register_autocast,
    register_fake,
    register_without_gradient,
    run,
    run_checked,
)
from cnnkern.ops.fakes import empty_gradients, empty_output

_conv2d = torch.ops.cnnkern.conv2d.default
_conv2d_backward = torch.ops.cnnkern.conv2d_backward.default


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: IntPair = 1,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    groups: int = 1,
    activation: str | None = None,
) -> Tensor:
    """2-D convolution, as `torch.nn.functional.conv2d` defines it.

    Args:
        x: (N, C, H, W), contiguous or channels_last; any other stride is made contiguous. float32 or float64
            on the CPU; float32 (TF32 where torch allows that in convolutions), float16 or bfloat16 on CUDA.
        weight: (K, C/groups, kH, kW) of x's dtype, in any memory format.
        bias: (K) or None.
        stride, padding, dilation: int or pair (vertical, horizontal), in pixels; padding is with zeros.
        groups: divides C and K; C for a depthwise convolution.
        activation: None, or "relu", applied while the output is still in registers.

    Returns:
        (N, K, oH, oW) in x's memory format, with oH = (H + 2·padding − dilation·(kH − 1) − 1) // stride + 1.

    Raises:
        ValueError: a wrong shape or number.
        TypeError: something that is no tensor, or no int.
        NotImplementedError: a dtype or a device without a kernel.

    Differentiable once in x, weight and bias.
    """
    stride, padding, dilation = geometry(stride, padding, dilation)
    if activation not in (None, "relu"):
        raise ValueError(f"activation: expected None or 'relu', got {activation!r}")
    checked = x, weight, bias, stride, padding, dilation, groups
    return run_checked(_conv2d, check_conv2d, checked, activation is not None)


def check_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> tuple[int, int, int, int]:
    """The shape of the output, or an error that says what is wrong with the arguments."""
    size = shape_of("weight", weight, "(K, C/groups, kH, kW)", 4)
    check_not_empty("weight", size)
    return check_convolution(x, {"weight": weight}, bias, size, stride, padding, dilation, groups)


def packed_length(weight_size: Sequence[int], groups: int, like: Tensor) -> int:
    """Elements of a packed weight (K, C/groups, kH, kW) with the device and the dtype of `like`.

    On the CPU panels of 16 output channels in each group, on CUDA rows (kH, kW, C/groups in whole chunks).
    """
    k, c, kernel_h, kernel_w = weight_size
    if like.is_cuda:
        return k * kernel_h * kernel_w * up_to_chunk(c, like)
    if c == 1:
        return kernel_h * kernel_w * up_to_panel(k)
    return groups * up_to_panel(k // groups) * c * kernel_h * kernel_w


@register_fake("conv2d")
def _fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    relu: bool,
) -> Tensor:
    shape = check_conv2d(x, weight, bias, *geometry(stride, padding, dilation), groups)
    return empty_output(x, shape)


@register_fake("conv2d_pack")
def _pack_fake(weight: Tensor, groups: int) -> Tensor:
    size = shape_of("weight", weight, "(K, C/groups, kH, kW)", 4)
    check_not_empty("weight", size)
    check_groups(groups, size[0])
    check_kind(weight=weight)
    return weight.new_empty(packed_length(size, groups, weight))


@register_fake("conv2d_packed")
def _packed_fake(
    x: Tensor, packed: Tensor, bias: Tensor | None, geometry: Sequence[int], relu: bool
) -> Tensor:
    weight_size, *pairs, groups = packed_geometry(4, geometry)
    check_not_empty("geometry", weight_size)
    shape = check_convolution(x, {"packed": packed}, bias, weight_size, *pairs, groups)
    check_packed(packed, packed_length(weight_size, groups, packed))
    return empty_output(x, shape)


@register_fake("conv2d_backward")
def _backward_fake(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    shape = check_conv2d(x, weight, None, *geometry(stride, padding, dilation), groups)
    check_gradient(grad, x, shape)
    return empty_gradients(x, weight, shape[1], output_mask)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, *ctx.geometry, relu = inputs
    ctx.save_for_backward(x, weight, *[output] * relu)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, *output = ctx.saved_tensors
    if output:
        grad = torch.ops.aten.threshold_backward(grad, *output, 0)
    asked = ctx.needs_input_grad[:3]
    gradients = run(_conv2d_backward, grad, x, weight, *ctx.geometry, asked)
    return *(g if wanted else None for g, wanted in zip(gradients, asked, strict=True)), *[None] * 5


torch.library.register_autograd("cnnkern::conv2d", _backward, setup_context=_keep)
register_without_gradient("conv2d_backward", "there are no second derivatives")
register_without_gradient("conv2d_pack", "call cnnkern.ops.conv2d with the weight itself")
register_without_gradient("conv2d_packed", "call cnnkern.ops.conv2d with the weight itself")
register_autocast("conv2d")
register_autocast("conv2d_packed")
