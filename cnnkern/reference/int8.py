"""The int8 operations: exact integers, and one formula that makes other integers or real numbers of them.

A quantized x stands for scale·(x − zero_point). The sums are those of Jacob et al., Quantization and Training
of Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR 2018; they are computed here in
float64, which holds every integer below 2⁵³. Padding is with the zero point.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnkern.reference.column_sparse_conv2d import with_zeros
from cnnkern.reference.im2col import IntPair


def int8_quantize(x: Tensor, scale: float, zero_point: int, dtype: torch.dtype = torch.uint8) -> Tensor:
    """`x`, float32, as integers of `dtype`, uint8 or int8: clamp(round(x / scale) + zero_point), divided in
    float32 and rounded to nearest, ties to even. NaN becomes the integer 0."""
    limits = torch.iinfo(dtype)
    steps = x / scale
    rounded = (torch.round(steps) + zero_point).clamp(limits.min, limits.max)
    return torch.where(steps.isnan(), 0, rounded).to(dtype)


def int8_add(
    a: Tensor,
    b: Tensor,
    *,
    a_scale: float,
    a_zero_point: int,
    b_scale: float,
    b_zero_point: int,
    out_scale: float,
    out_zero_point: int = 0,
    activation: str | None = None,
) -> Tensor:
    """The sum of the numbers that `a` and `b` stand for, on a grid of its own, in their dtype.

    m_a = float32(a_scale / out_scale) is computed in float64 and rounded once, m_b likewise. Then in float32,
    every operation rounded to nearest (ties to even) by itself and none fused:
    v = (a − a_zero_point)·m_a + (b − b_zero_point)·m_b. The result is clamp(round(v) + out_zero_point), where
    activation="relu" makes out_zero_point the least that comes out. Kernels give these bits on every
    instruction set.
    """
    terms = [
        (q.float() - zero_point) * torch.tensor(scale / out_scale, dtype=torch.float32)
        for q, scale, zero_point in ((a, a_scale, a_zero_point), (b, b_scale, b_zero_point))
    ]
    limits = torch.iinfo(a.dtype)
    least = out_zero_point if activation == "relu" else limits.min
    return (torch.round(terms[0] + terms[1]) + out_zero_point).clamp(least, limits.max).to(a.dtype)


def int8_max_pool2d(
    x: Tensor,
    kernel_size: IntPair,
    *,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """The greatest of each window of `x` (N, C, H, W), uint8 or int8, and the least value of the type where
    a window has nothing but padding."""
    y = F.max_pool2d(x.double(), kernel_size, stride, padding, dilation, ceil_mode)
    return y.clamp(min=torch.iinfo(x.dtype).min).to(x.dtype)


def int8_quantize_weight(weight: Tensor, scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`weight` (K, ...), float32, as int8 in [−127, 127], and the scale (K) of each output channel.

    A scale that is not given is the channel's greatest magnitude / 127, a normal number, or 1 where that is
    zero. The integers are clamp(round(weight / scale)), divided in float32 and rounded to nearest, ties to
    even.
    """
    if scale is None:
        greatest = weight.flatten(1).abs().amax(1)
        least = torch.finfo(torch.float32).tiny
        scale = torch.where(greatest > 0, (greatest / 127).clamp(min=least), 1.0)
    rounded = torch.round(weight / scale.view(-1, *[1] * (weight.dim() - 1)))
    return rounded.clamp(-127, 127).to(torch.int8), scale


def int8_epilogue(
    sums: Tensor,
    bias: Tensor | None = None,
    *,
    x_scale: float,
    weight_scale: Tensor,
    out_scale: float | None = None,
    out_zero_point: int = 0,
    dtype: torch.dtype = torch.uint8,
    activation: str | None = None,
    axis: int = 1,
) -> Tensor:
    """What the kernels make of their sums of products (N, K, ...), int32 or float64 integers.

    m = float32(x_scale·weight_scale / out_scale) and b = float32(bias / out_scale) are computed in float64
    and rounded once, out_scale being 1 where none is given. Then in float32, every operation rounded to
    nearest (ties to even) by itself and none fused: v = float32(sums)·m + b. The result is max(v, 0) for
    activation="relu", else v; and with an out_scale clamp(round(v) + out_zero_point) in `dtype`, where
    "relu" makes out_zero_point the least that comes out. Kernels give these bits on every instruction set.
    """
    shape = [-1 if a == axis % sums.dim() else 1 for a in range(sums.dim())]
    scale = 1.0 if out_scale is None else out_scale
    multiplier = (x_scale * weight_scale.double() / scale).float().view(shape)
    offset = 0.0 if bias is None else (bias.double() / scale).float().view(shape)
    real = sums.float() * multiplier + offset
    if out_scale is None:
        return real.relu() if activation == "relu" else real
    limits = torch.iinfo(dtype)
    least = out_zero_point if activation == "relu" else limits.min
    # clamped first: every bound is an integer, and what is beyond may not fit into one
    return (real.clamp(least - out_zero_point, limits.max - out_zero_point).round() + out_zero_point).to(
        dtype
    )


def int8_gemm(a: Tensor, b: Tensor, *, a_zero_point: int = 0) -> Tensor:
    """(a − a_zero_point) b of `a` (m, k), uint8 or int8, and `b` (k, n), int8: (m, n) int32."""
    return ((a.double() - a_zero_point) @ b.double()).to(torch.int32)


def int8_sums(
    x: Tensor,
    weight: Tensor,
    *,
    x_zero_point: int,
    stride: IntPair = 1,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    groups: int = 1,
) -> Tensor:
    """The sums of `int8_conv2d`: the convolution of x − x_zero_point with `weight`, (N, K, oH, oW) int32."""
    centred = x.double() - x_zero_point
    return F.conv2d(centred, weight.double(), None, stride, padding, dilation, groups).to(torch.int32)


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
    """Convolution of what `x` (N, C, H, W) and `weight` (K, C/G, kH, kW) stand for, and `bias` (K) added."""
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return int8_epilogue(
        int8_sums(x, weight, x_zero_point=x_zero_point, **geometry),
        bias,
        x_scale=x_scale,
        weight_scale=weight_scale,
        out_scale=out_scale,
        out_zero_point=out_zero_point,
        dtype=x.dtype,
        activation=activation,
    )


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
    """`int8_conv2d` with the weight that has zeros in place of the columns that are gone."""
    dense = with_zeros(weight, columns, in_channels=x.shape[1], kernel_size=kernel_size, groups=groups)
    return int8_conv2d(
        x,
        dense,
        bias,
        x_scale=x_scale,
        x_zero_point=x_zero_point,
        weight_scale=weight_scale,
        out_scale=out_scale,
        out_zero_point=out_zero_point,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        activation=activation,
    )


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
    """x Wᵀ + bias of the numbers that `x` (..., C) and `weight` (K, C) stand for."""
    return int8_epilogue(
        int8_gemm(x.flatten(0, -2), weight.t(), a_zero_point=x_zero_point).unflatten(0, x.shape[:-1]),
        bias,
        x_scale=x_scale,
        weight_scale=weight_scale,
        out_scale=out_scale,
        out_zero_point=out_zero_point,
        dtype=x.dtype,
        activation=activation,
        axis=-1,
    )
