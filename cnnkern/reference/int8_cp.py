"""The fused CP convolution of 8-bit integers, stage by stage, and how far a kernel may be from it.

Lebedev et al., Speeding-up Convolutional Neural Networks Using Fine-tuned CP-Decomposition, ICLR 2015, whose
1×1 stages are here those of Jacob et al., CVPR 2018.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnkern.reference.im2col import IntPair
from cnnkern.reference.int8 import int8_epilogue, int8_sums

GREATEST = 127  # of the integers between the stages


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
    """The four stages of a CP convolution of what `x` (N, C, H, W), uint8 or int8, stands for.

    1. `int8_conv2d` of x with factor_c (R, C/G), int8 of scale factor_c_scale[r], as float32: exact sums, one
       product by float32(x_scale·factor_c_scale[r]).
    2. and 3. depthwise convolutions with factor_h (R, kH) and factor_w (R, kW), float32: here in float64.
    Then these are rounded to nearest, ties to even, and clamped to [−127, 127]: their unit is one step.
    4. `int8_conv2d` of those with factor_k (K, R/G), int8 of scale factor_k_scale[k], and `int8_epilogue`.

    A kernel computes stages 2 and 3 in float32, and so has the neighbour of an integer where `int8_cp_steps`
    is near a half: see `int8_cp_conv2d_bound`.
    """
    steps = int8_cp_steps(
        x,
        factor_c,
        factor_h,
        factor_w,
        x_scale=x_scale,
        x_zero_point=x_zero_point,
        factor_c_scale=factor_c_scale,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )
    integers = steps.round().clamp(-GREATEST, GREATEST).to(torch.int8)
    return int8_epilogue(
        int8_sums(integers, factor_k[..., None, None], x_zero_point=0, groups=groups),
        bias,
        x_scale=1.0,
        weight_scale=factor_k_scale,
        out_scale=out_scale,
        out_zero_point=out_zero_point,
        dtype=x.dtype,
        activation=activation,
    )


def int8_cp_steps(
    x: Tensor,
    factor_c: Tensor,
    factor_h: Tensor,
    factor_w: Tensor,
    *,
    x_scale: float,
    x_zero_point: int,
    factor_c_scale: Tensor,
    stride: IntPair = 1,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    groups: int = 1,
) -> Tensor:
    """What stage 3 gives, (N, R, oH, oW) float64."""
    sums = int8_sums(x, factor_c[..., None, None], x_zero_point=x_zero_point, groups=groups)
    first = int8_epilogue(sums, x_scale=x_scale, weight_scale=factor_c_scale)
    return _depthwise(first.double(), factor_h.double(), factor_w.double(), stride, padding, dilation)


def int8_cp_conv2d_bound(
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
    **options: Any,
) -> Tensor:
    """What a kernel may differ by from `int8_cp_conv2d`, per element and in float64.

    Stages 2 and 3 in float32 are away from the exact ones by at most e = 2·(kH + kW)·eps·stages(|stage 1|,
    |factors|). An integer is another one, the next, only where the exact value is that near to a half: these
    are u ∈ {0, 1}, and the real output moves by at most Σ_r factor_k_scale[k]·|factor_k[k,r]|·u, besides one
    rounding of a product and of a sum. Integers move by that over out_scale, and by one step besides where it
    is not zero: everything that is not near to a half is exact.
    """
    geometry = {
        name: options[name] for name in ("stride", "padding", "dilation", "groups") if name in options
    }
    first = {"x_scale": x_scale, "x_zero_point": x_zero_point, "factor_c_scale": factor_c_scale}
    steps = int8_cp_steps(x, factor_c, factor_h, factor_w, **first, **geometry)
    groups = geometry.pop("groups", 1)
    sums = int8_sums(x, factor_c[..., None, None], x_zero_point=x_zero_point, groups=groups)
    magnitude = int8_epilogue(sums, x_scale=x_scale, weight_scale=factor_c_scale).abs().double()
    defaults = {"stride": 1, "padding": 0, "dilation": 1}
    error = _depthwise(magnitude, factor_h.abs().double(), factor_w.abs().double(), **defaults | geometry)
    depth = factor_h.shape[1] + factor_w.shape[1]
    error = 2 * depth * torch.finfo(torch.float32).eps * error
    clamped = (steps - error).abs().minimum((steps + error).abs()) > GREATEST + 0.5
    unsure = ((steps - error).round() != (steps + error).round()) & ~clamped
    moved = F.conv2d(unsure.double(), factor_k.abs().double()[..., None, None], groups=groups)
    moved = moved * factor_k_scale.double().view(-1, 1, 1)
    if out_scale is not None:
        return torch.where(moved > 0, moved / out_scale + 1, 0.0)
    # where an integer is another one, the product and the sum that follow are rounded elsewhere
    largest = F.conv2d(
        steps.abs().clamp(max=GREATEST) + 1, factor_k.abs().double()[..., None, None], groups=groups
    )
    largest = largest * factor_k_scale.double().view(-1, 1, 1)
    if bias is not None:
        largest = largest + bias.abs().double().view(-1, 1, 1)
    return torch.where(moved > 0, moved + 4 * torch.finfo(torch.float32).eps * largest, 0.0)


def _depthwise(
    x: Tensor, factor_h: Tensor, factor_w: Tensor, stride: IntPair, padding: IntPair, dilation: IntPair
) -> Tensor:
    """kH×1, then 1×kW, a factor for each channel."""
    (stride_h, stride_w), (padding_h, padding_w), (dilation_h, dilation_w) = map(
        _pair, (stride, padding, dilation)
    )
    rank = x.shape[1]
    x = F.conv2d(
        x, factor_h[:, None, :, None], None, (stride_h, 1), (padding_h, 0), (dilation_h, 1), groups=rank
    )
    return F.conv2d(
        x, factor_w[:, None, None, :], None, (1, stride_w), (0, padding_w), (1, dilation_w), groups=rank
    )


def _pair(value: IntPair) -> tuple[int, int]:
    return (value[0], value[1]) if isinstance(value, Sequence) else (value, value)
