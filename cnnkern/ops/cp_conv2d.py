"""CP convolution: 1×1, d×1 depthwise, 1×d depthwise and 1×1 in one call, without a map in between.

Lebedev, Ganin, Rakhuba, Oseledets, Lempitsky: Speeding-up Convolutional Neural Networks Using Fine-tuned
CP-Decomposition, ICLR 2015.
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
    geometry,
    memory_format,
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
from cnnkern.ops.fakes import empty_output

_cp_conv2d = torch.ops.cnnkern.cp_conv2d.default
_cp_conv2d_backward = torch.ops.cnnkern.cp_conv2d_backward.default


def cp_conv2d(
    x: Tensor,
    factor_c: Tensor,
    factor_h: Tensor,
    factor_w: Tensor,
    factor_k: Tensor,
    bias: Tensor | None = None,
    *,
    stride: IntPair = 1,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    groups: int = 1,
) -> Tensor:
    """2-D convolution with W[k,c,i,j] = Σ_r factor_k[k,r] factor_c[r,c] factor_h[r,i] factor_w[r,j].

    Args:
        x: (N, C, H, W), contiguous or channels_last; any other stride is made contiguous. float32 or float64
            on the CPU; float32 (TF32 where torch allows that in convolutions), float16 or bfloat16 on CUDA.
        factor_c: (R, C/groups) of x's dtype: the first 1×1 convolution.
        factor_h: (R, kH): the vertical depthwise convolution.
        factor_w: (R, kW): the horizontal depthwise convolution.
        factor_k: (K, R/groups): the last 1×1 convolution.
        bias: (K) or None.
        stride, padding, dilation: int or pair (vertical, horizontal), in pixels; padding is with zeros.
        groups: divides C, K and R: each group of channels has a CP of rank R/groups of its own.

    Returns:
        (N, K, oH, oW) in x's memory format, with oH = (H + 2·padding − dilation·(kH − 1) − 1) // stride + 1.

    Raises:
        ValueError: a wrong shape or number.
        TypeError: something that is no tensor, or no int.
        NotImplementedError: a dtype or a device without a kernel.

    Differentiable once in x, the factors and the bias. The backward pass computes the intermediates again, so
    that only x and the factors are kept for it.
    """
    stride, padding, dilation = geometry(stride, padding, dilation)
    checked = x, factor_c, factor_h, factor_w, factor_k, bias, stride, padding, dilation, groups
    return run_checked(_cp_conv2d, check_cp_conv2d, checked)


def check_cp_conv2d(
    x: Tensor,
    factor_c: Tensor,
    factor_h: Tensor,
    factor_w: Tensor,
    factor_k: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> tuple[int, int, int, int]:
    """The shape of the output, or an error that says what is wrong with the arguments."""
    k, _, c, kernel_h, kernel_w = factor_size(factor_c, factor_h, factor_w, factor_k, groups)
    factors = {"factor_c": factor_c, "factor_h": factor_h, "factor_w": factor_w, "factor_k": factor_k}
    return check_convolution(x, factors, bias, (k, c, kernel_h, kernel_w), stride, padding, dilation, groups)


def factor_size(
    factor_c: Tensor, factor_h: Tensor, factor_w: Tensor, factor_k: Tensor, groups: int
) -> tuple[int, int, int, int, int]:
    """(K, R, C/groups, kH, kW) of four factors that fit together."""
    rank, c = shape_of("factor_c", factor_c, "(R, C/groups)", 2)
    rank_h, kernel_h = shape_of("factor_h", factor_h, "(R, kH)", 2)
    rank_w, kernel_w = shape_of("factor_w", factor_w, "(R, kW)", 2)
    k, rank_k = shape_of("factor_k", factor_k, "(K, R/groups)", 2)
    if rank_h != rank or rank_w != rank:
        name, got = ("factor_h", rank_h) if rank_h != rank else ("factor_w", rank_w)
        raise ValueError(f"{name}: expected {rank} rows, the rank R that factor_c has, got {got}")
    size = (k, rank, c, kernel_h, kernel_w)
    check_factor_size("factors", size, groups)
    if rank_k * groups != rank:
        raise ValueError(
            f"factor_k: expected {rank // groups} columns, R/groups with R = {rank} rows of factor_c and "
            f"groups = {groups}, got {rank_k}"
        )
    return size


def check_factor_size(name: str, size: Sequence[int], groups: int) -> None:
    """Factors of `size` (K, R, C/groups, kH, kW) can be."""
    check_not_empty(f"{name} (K, R, C/groups, kH, kW)", size)
    check_groups(groups)
    if size[1] % groups:
        raise ValueError(f"groups: expected a divisor of the rank R = {size[1]}, got {groups}")


def packed_length(factor_size: Sequence[int], groups: int, like: Tensor) -> int:
    """Elements of packed factors of size (K, R, C/groups, kH, kW) with the device and the dtype of `like`.

    On the CPU panels of 16 ranks, and of 16 outputs; on CUDA factors whose rows, or all of them, are in whole
    chunks.
    """
    k, rank, c, kernel_h, kernel_w = factor_size
    if like.is_cuda:
        depthwise = up_to_chunk(rank * kernel_h, like) + up_to_chunk(rank * kernel_w, like)
        return rank * up_to_chunk(c, like) + depthwise + k * up_to_chunk(rank // groups, like)
    rank //= groups
    return groups * (up_to_panel(rank) * (c + kernel_h + kernel_w) + up_to_panel(k // groups) * rank)


@register_fake("cp_conv2d")
def _fake(
    x: Tensor,
    factor_c: Tensor,
    factor_h: Tensor,
    factor_w: Tensor,
    factor_k: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> Tensor:
    pairs = geometry(stride, padding, dilation)
    shape = check_cp_conv2d(x, factor_c, factor_h, factor_w, factor_k, bias, *pairs, groups)
    return empty_output(x, shape)


@register_fake("cp_conv2d_pack")
def _pack_fake(factor_c: Tensor, factor_h: Tensor, factor_w: Tensor, factor_k: Tensor, groups: int) -> Tensor:
    size = factor_size(factor_c, factor_h, factor_w, factor_k, groups)
    check_groups(groups, size[0])
    check_kind(factor_c=factor_c, factor_h=factor_h, factor_w=factor_w, factor_k=factor_k)
    return factor_c.new_empty(packed_length(size, groups, factor_c))


@register_fake("cp_conv2d_packed")
def _packed_fake(x: Tensor, packed: Tensor, bias: Tensor | None, geometry: Sequence[int]) -> Tensor:
    factor_size, *pairs, groups = packed_geometry(5, geometry)
    check_factor_size("geometry", factor_size, groups)
    k, _, *rest = factor_size
    shape = check_convolution(x, {"packed": packed}, bias, (k, *rest), *pairs, groups)
    check_packed(packed, packed_length(factor_size, groups, packed))
    return empty_output(x, shape)


@register_fake("cp_conv2d_backward")
def _backward_fake(
    grad: Tensor,
    x: Tensor,
    factor_c: Tensor,
    factor_h: Tensor,
    factor_w: Tensor,
    factor_k: Tensor,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[Tensor, ...]:
    pairs = geometry(stride, padding, dilation)
    shape = check_cp_conv2d(x, factor_c, factor_h, factor_w, factor_k, None, *pairs, groups)
    check_gradient(grad, x, shape)
    likes = [torch.empty_like(x, memory_format=memory_format(x))]
    likes += [x.new_empty(factor.shape) for factor in (factor_c, factor_h, factor_w, factor_k)]
    likes.append(x.new_empty(shape[1]))
    return tuple(like if asked else x.new_empty(0) for like, asked in zip(likes, output_mask, strict=True))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, factor_c, factor_h, factor_w, factor_k, _, *ctx.geometry = inputs
    ctx.save_for_backward(x, factor_c, factor_h, factor_w, factor_k)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    asked = ctx.needs_input_grad[:6]
    gradients = run(_cp_conv2d_backward, grad, *ctx.saved_tensors, *ctx.geometry, asked)
    given = (gradient if wanted else None for gradient, wanted in zip(gradients, asked, strict=True))
    return (*given, None, None, None, None)


torch.library.register_autograd("cnnkern::cp_conv2d", _backward, setup_context=_keep)
register_without_gradient("cp_conv2d_backward", "there are no second derivatives")
register_without_gradient("cp_conv2d_pack", "call cnnkern.ops.cp_conv2d with the factors themselves")
register_without_gradient("cp_conv2d_packed", "call cnnkern.ops.cp_conv2d with the factors themselves")
register_autocast("cp_conv2d")
register_autocast("cp_conv2d_packed")
