"""Perforated convolution: only some outputs are computed, the others take over the nearest of these.

Figurnov, Ibraimova, Vetrov, Kohli: PerforatedCNNs: Acceleration through Elimination of Redundant
Convolutions, NIPS 2016.
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
    check_not_empty,
    check_packed,
    check_same_device,
    geometry,
    packed_geometry,
)
from cnnkern.ops.conv2d import check_conv2d, packed_length
from cnnkern.ops.dispatch import (
    register_autocast,
    register_fake,
    register_without_gradient,
    run,
)
from cnnkern.ops.fakes import empty_gradients, empty_output

INTERPOLATIONS = ("nearest", "none")

_perforated_conv2d = torch.ops.cnnkern.perforated_conv2d.default
_perforated_conv2d_backward = torch.ops.cnnkern.perforated_conv2d_backward.default


def perforated_conv2d(
    x: Tensor,
    weight: Tensor,
    mask: Tensor,
    bias: Tensor | None = None,
    *,
    stride: IntPair = 1,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    groups: int = 1,
    interpolation: str = "nearest",
) -> Tensor:
    """2-D convolution of which only the outputs that `mask` keeps are computed.

    Args:
        x: (N, C, H, W), float32 or float64 on the CPU, float32, float16 or bfloat16 on CUDA, contiguous or
            channels_last; any other stride is made contiguous.
        weight: (K, C/groups, kH, kW) of x's dtype, in any memory format.
        mask: bool, (oH, oW) for all images or (N, oH, oW) with one for each; True where an output is
            computed, the same in all channels. Each mask keeps at least one; on CUDA, where to look would be
            to wait for the GPU, one that keeps none gives zeros.
        bias: (K) or None.
        stride, padding, dilation: int or pair (vertical, horizontal), in pixels; padding is with zeros.
        groups: divides C and K; C for a depthwise convolution.
        interpolation: "nearest" gives every other output the value of the nearest one that is kept, by
            Euclidean distance in output pixels; of several equally near ones that of the highest row, and
            there the leftmost. "none" gives them zero: for a pooling layer behind it that never reads them.

    Returns:
        (N, K, oH, oW) in x's memory format, with oH = (H + 2·padding − dilation·(kH − 1) − 1) // stride + 1.

    Raises:
        ValueError: a wrong shape or number, or, on the CPU, a mask that keeps nothing.
        TypeError: something that is no tensor, no bool mask, or no int.
        NotImplementedError: a dtype or a device without a kernel.

    Differentiable once in x, weight and bias: the gradients of all outputs that show a value are added up.
    """
    stride, padding, dilation = geometry(stride, padding, dilation)
    check_interpolation(interpolation)
    check_perforated_conv2d(x, weight, mask, bias, stride, padding, dilation, groups)
    nearest = interpolation == "nearest"
    return run(_perforated_conv2d, x, weight, mask, bias, stride, padding, dilation, groups, nearest)


def check_interpolation(interpolation: Any) -> None:
    """`interpolation` is one of INTERPOLATIONS."""
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"interpolation: expected 'nearest' or 'none', got {interpolation!r}")


def check_perforated_conv2d(
    x: Tensor,
    weight: Tensor,
    mask: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> tuple[int, int, int, int]:
    """The shape of the output, or an error that says what is wrong with the arguments."""
    shape = check_conv2d(x, weight, bias, stride, padding, dilation, groups)
    _check_mask(mask, x, shape)
    return shape


def _check_mask(mask: Any, x: Tensor, shape: Sequence[int]) -> None:
    """`mask` is bool (oH, oW) or (N, oH, oW), on the device of x."""
    if not isinstance(mask, Tensor):
        raise TypeError(f"mask: expected a tensor (oH, oW) or (N, oH, oW), got {type(mask).__name__}")
    if mask.dtype is not torch.bool:
        raise TypeError(f"mask: expected a tensor of torch.bool, got {mask.dtype}")
    check_same_device("mask", mask, "x", x)
    n, _, *size = shape
    if mask.dim() not in (2, 3) or list(mask.shape) != [n, *size][-mask.dim() :]:
        raise ValueError(
            f"mask: expected the output's size {tuple(size)}, or {(n, *size)} with one for each image, "
            f"got {tuple(mask.shape)}"
        )


@register_fake("perforated_conv2d")
def _fake(
    x: Tensor,
    weight: Tensor,
    mask: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    nearest: bool,
) -> Tensor:
    pairs = geometry(stride, padding, dilation)
    shape = check_perforated_conv2d(x, weight, mask, bias, *pairs, groups)
    return empty_output(x, shape)


@register_fake("perforated_conv2d_sources")
def _sources_fake(mask: Tensor, nearest: bool) -> Tensor:
    return torch.empty(_mask_size(mask), dtype=torch.int32, device=mask.device)


@register_fake("perforated_conv2d_arrange")
def _arrange_fake(mask: Tensor, nearest: bool) -> Tensor:
    *masks, height, width = _mask_size(mask)
    return torch.empty((*masks, 2, height, width), dtype=torch.int32, device=mask.device)


def _mask_size(mask: Tensor) -> torch.Size:
    if mask.dtype is not torch.bool:
        raise TypeError(f"mask: expected a tensor of torch.bool, got {mask.dtype}")
    if mask.dim() not in (2, 3):
        raise ValueError(f"mask: expected (oH, oW) or (N, oH, oW), got {tuple(mask.shape)}")
    check_not_empty("mask", mask.shape[-2:])
    return mask.shape


@register_fake("perforated_conv2d_packed")
def _packed_fake(
    x: Tensor, packed: Tensor, bias: Tensor | None, geometry: Sequence[int], arranged: Tensor
) -> Tensor:
    weight_size, *pairs, groups = packed_geometry(4, geometry)
    check_not_empty("geometry", weight_size)
    shape = check_convolution(x, {"packed": packed}, bias, weight_size, *pairs, groups)
    check_packed(packed, packed_length(weight_size, groups, packed))
    check_same_device("arranged", arranged, "x", x)
    n, _, *size = shape
    if arranged.dtype is not torch.int32:
        raise TypeError(f"arranged: expected a tensor of torch.int32, got {arranged.dtype}")
    if list(arranged.shape) not in ([2, *size], [n, 2, *size]):
        raise ValueError(
            f"arranged: expected {(2, *size)}, or {(n, 2, *size)} with one for each image, "
            f"got {tuple(arranged.shape)}"
        )
    return empty_output(x, shape)


@register_fake("perforated_conv2d_backward")
def _backward_fake(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    mask: Tensor,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    nearest: bool,
    output_mask: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    pairs = geometry(stride, padding, dilation)
    shape = check_perforated_conv2d(x, weight, mask, None, *pairs, groups)
    check_gradient(grad, x, shape)
    return empty_gradients(x, weight, shape[1], output_mask)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, mask, _, *ctx.rest = inputs
    ctx.save_for_backward(x, weight, mask)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    of_x, of_weight, _, of_bias, *others = ctx.needs_input_grad
    asked = of_x, of_weight, of_bias
    gradients = run(_perforated_conv2d_backward, grad, *ctx.saved_tensors, *ctx.rest, asked)
    x, weight, bias = (g if wanted else None for g, wanted in zip(gradients, asked, strict=True))
    return x, weight, None, bias, *[None] * len(others)


torch.library.register_autograd("cnnkern::perforated_conv2d", _backward, setup_context=_keep)
register_without_gradient("perforated_conv2d_backward", "there are no second derivatives")
register_without_gradient(
    "perforated_conv2d_packed", "call cnnkern.ops.perforated_conv2d with the weight itself"
)
register_autocast("perforated_conv2d")
register_autocast("perforated_conv2d_packed")
