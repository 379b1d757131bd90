"""Fused CP convolution of quantized numbers: int8 products in the two 1×1 stages, float32 between them.

Lebedev et al., Speeding-up Convolutional Neural Networks Using Fine-tuned CP-Decomposition, ICLR 2015;
`cnnkern.reference.int8_cp_conv2d` says what is rounded where.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cnnkern.ops.arguments import (
    IntPair,
    Pair,
    check_groups,
    check_packed,
    check_same_device,
    convolution_size,
    geometry,
    packed_geometry,
    shape_of,
    up_to_panel,
)
from cnnkern.ops.cp_conv2d import check_factor_size, factor_size
from cnnkern.ops.dispatch import register_fake, run
from cnnkern.ops.fakes import empty_output
from cnnkern.ops.int8_arguments import (
    check_activation,
    check_kinds,
    check_like,
    check_on_cpu,
    check_quantization,
    check_sum,
    output_dtype,
    packed_matrices_length,
    register_integers,
)

_int8_cp_conv2d = torch.ops.cnnkern.int8_cp_conv2d.default


def int8_cp_conv2d(
    x: Tensor,
    factor_c: Tensor,
    factor_h: Tensor,
    factor_w: Tensor,
    factor_k: Tensor,
    bias: Tensor | None = None,
    *,
    x_scale: float,
    x_zero_point: int,
    factor_c_scale: Tensor,
    factor_k_scale: Tensor,
    out_scale: float | None = None,
    out_zero_point: int = 0,
    stride: IntPair = 1,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    groups: int = 1,
    activation: str | None = None,
) -> Tensor:
    """2-D convolution of quantized numbers with the weight of CP rank R that the factors stand for.

    The weight is Σ_r (factor_k_scale[k] factor_k[k,r]) (factor_c_scale[r] factor_c[r,c]) factor_h[r,i]
    factor_w[r,j]. Of the many ways to share a component's magnitude among its factors, the one is asked for
    in which what the second depthwise stage gives is in units of one step: it is rounded to integers in
    [−127, 127], which the last stage multiplies.

    Args:
        x: (N, C, H, W), uint8 or int8, contiguous or channels_last; any other stride is made contiguous.
        factor_c: (R, C/groups) int8.
        factor_h, factor_w: (R, kH) and (R, kW) float32.
        factor_k: (K, R/groups) int8. Neither 1×1 stage has sums of more than 65,793 products.
        bias: (K) float32, real numbers; or None.
        factor_c_scale, factor_k_scale: (R) and (K) float32, positive.
        x_scale, x_zero_point, out_scale, out_zero_point, stride, padding, dilation, groups, activation: as in
            `int8_conv2d`; groups divides R too.

    Returns:
        (N, K, oH, oW) in x's memory format: float32, or x's type where out_scale says so, rounded to nearest
        with ties to even.

    Raises:
        ValueError: a wrong shape or number.
        TypeError: something that is no tensor, or no number.
        NotImplementedError: a dtype or a device without a kernel.
    """
    pairs = geometry(stride, padding, dilation)
    factors = factor_c, factor_h, factor_w, factor_k
    scales = factor_c_scale, factor_k_scale, x_scale, x_zero_point, out_scale, out_zero_point
    check_activation(activation)
    _check(x, *factors, bias, *scales, *pairs, groups)
    return run(_int8_cp_conv2d, x, *factors, bias, *scales, *pairs, groups, activation is not None)


def _check(
    x: Any,
    factor_c: Any,
    factor_h: Any,
    factor_w: Any,
    factor_k: Any,
    bias: Any,
    factor_c_scale: Any,
    factor_k_scale: Any,
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
    k, rank, *rest = factor_size(factor_c, factor_h, factor_w, factor_k, groups)
    shape = convolution_size(x, (k, *rest), stride, padding, dilation, groups)
    _check_sums(rank, rest[0], groups)
    check_on_cpu("x", x)
    check_kinds("x", x, x_zero_point, factor_c=factor_c, factor_k=factor_k)
    for name, factor in (("factor_h", factor_h), ("factor_w", factor_w)):
        check_like("x", x, name, factor, torch.float32)
    _check_scales(x, bias, factor_c_scale, factor_k_scale, x_scale, out_scale, out_zero_point, k=k, rank=rank)
    return shape


def _check_sums(rank: int, group_channels: int, groups: int) -> None:
    check_sum("factor_c", group_channels)
    check_sum("factor_k", rank // groups)


def _check_scales(
    x: Tensor,
    bias: Tensor | None,
    factor_c_scale: Any,
    factor_k_scale: Any,
    x_scale: Any,
    out_scale: Any,
    out_zero_point: Any,
    *,
    k: int,
    rank: int,
) -> None:
    (length,) = shape_of("factor_c_scale", factor_c_scale, "(R)", 1)
    if length != rank:
        raise ValueError(f"factor_c_scale: expected {rank} elements, one a rank, got {length}")
    check_like("x", x, "factor_c_scale", factor_c_scale, torch.float32)
    check_quantization(
        x, bias, factor_k_scale, x_scale, out_scale, out_zero_point, k, scale_name="factor_k_scale"
    )


def packed_length(size: Sequence[int], groups: int) -> int:
    """Bytes of packed factors of size (K, R, C/groups, kH, kW)."""
    k, rank, c, kernel_h, kernel_w = size
    depthwise = 4 * groups * up_to_panel(rank // groups) * (kernel_h + kernel_w)
    matrices = packed_matrices_length(rank, c, groups) + packed_matrices_length(k, rank // groups, groups)
    return matrices + depthwise


@register_fake("int8_cp_conv2d")
def _fake(
    x: Tensor,
    factor_c: Tensor,
    factor_h: Tensor,
    factor_w: Tensor,
    factor_k: Tensor,
    bias: Tensor | None,
    factor_c_scale: Tensor,
    factor_k_scale: Tensor,
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
    factors = factor_c, factor_h, factor_w, factor_k
    scales = factor_c_scale, factor_k_scale, x_scale, x_zero_point, out_scale, out_zero_point
    shape = _check(x, *factors, bias, *scales, *geometry(stride, padding, dilation), groups)
    return empty_output(x, shape, output_dtype(x, out_scale))


@register_fake("int8_cp_conv2d_pack")
def _pack_fake(factor_c: Tensor, factor_h: Tensor, factor_w: Tensor, factor_k: Tensor, groups: int) -> Tensor:
    size = factor_size(factor_c, factor_h, factor_w, factor_k, groups)
    check_groups(groups, size[0])
    _check_sums(size[1], size[2], groups)
    for name, factor in (("factor_h", factor_h), ("factor_w", factor_w), ("factor_k", factor_k)):
        check_same_device(name, factor, "factor_c", factor_c)
    return factor_c.new_empty(packed_length(size, groups))


@register_fake("int8_cp_conv2d_packed")
def _packed_fake(
    x: Tensor,
    packed: Tensor,
    bias: Tensor | None,
    geometry: Sequence[int],
    factor_c_scale: Tensor,
    factor_k_scale: Tensor,
    x_scale: float,
    x_zero_point: int,
    out_scale: float | None,
    out_zero_point: int,
    relu: bool,
) -> Tensor:
    size, *pairs, groups = packed_geometry(5, geometry)
    check_factor_size("geometry", size, groups)
    k, rank, *rest = size
    shape = convolution_size(x, (k, *rest), *pairs, groups)
    check_on_cpu("x", x)
    check_kinds("x", x, x_zero_point, packed=packed)
    check_packed(packed, packed_length(size, groups))
    _check_scales(x, bias, factor_c_scale, factor_k_scale, x_scale, out_scale, out_zero_point, k=k, rank=rank)
    return empty_output(x, shape, output_dtype(x, out_scale))


register_integers("int8_cp_conv2d")
register_integers("int8_cp_conv2d_packed")
