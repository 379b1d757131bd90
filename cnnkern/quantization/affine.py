"""Affine quantization: real x ≈ scale · (q − zero_point), with q an 8-bit integer and zero always exact.

Jacob et al., Quantization and training of neural networks for efficient integer-arithmetic-only inference,
CVPR 2018; Menghani, Efficient deep learning: a survey, 2021, algorithms 2 and 3. Rounding is to nearest, ties
to even.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

WEIGHT_MAX = 127  # the weights' grid is symmetric: −128 has no counterpart and is not used


class Affine(NamedTuple):
    """The grid of a tensor: x ≈ scale · (q − zero_point), q in the range of `dtype`.

    `scale` is a float32 value, so that every place that computes with it rounds the same.
    """

    scale: float
    zero_point: int
    dtype: torch.dtype = torch.uint8

    @classmethod
    def from_range(cls, low: float, high: float, dtype: torch.dtype = torch.uint8) -> Affine:
        """The grid over [min(low, 0), max(high, 0)] (Menghani 2021, algorithm 2); scale 1 if that is {0}.

        Raises ValueError for a range that is not finite, too wide for float32 or upside down, TypeError for
        another dtype than uint8 and int8.
        """
        least, greatest = limits(dtype)
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise ValueError(f"low, high: expected a finite range, got [{low}, {high}]")
        low, high = min(low, 0.0), max(high, 0.0)
        if low == high:
            return cls(1.0, least, dtype)
        width = (high - low) / (greatest - least)
        scale = max(float(torch.tensor(width, dtype=torch.float32)), torch.finfo(torch.float32).tiny)
        if scale == math.inf:
            raise ValueError(f"low, high: expected a range that float32 can hold, got [{low}, {high}]")
        zero_point = min(max(round(least - low / scale), least), greatest)
        return cls(scale, zero_point, dtype)

    @property
    def low(self) -> float:
        """The least value on the grid."""
        return self.scale * (limits(self.dtype)[0] - self.zero_point)

    @property
    def high(self) -> float:
        """The greatest value on the grid."""
        return self.scale * (limits(self.dtype)[1] - self.zero_point)

    def quantize(self, x: Tensor) -> Tensor:
        """clamp(round(x / scale) + zero_point), any shape, in `dtype` and the memory format of x."""
        return self.round(torch.div(x.float(), self.scale))

    def round(self, steps: Tensor) -> Tensor:
        """clamp(round(steps) + zero_point) for values in steps of the scale, which are overwritten."""
        return steps.round_().add_(self.zero_point).clamp_(*limits(self.dtype)).to(self.dtype)

    def steps(self, q: Tensor) -> Tensor:
        """q − zero_point in float32, which is exact."""
        return q.float().sub_(self.zero_point)

    def dequantize(self, q: Tensor) -> Tensor:
        """scale · (q − zero_point) in float32."""
        return self.steps(q).mul_(self.scale)


def limits(dtype: torch.dtype) -> tuple[int, int]:
    """The least and the greatest integer of uint8 or int8; TypeError for another dtype."""
    if dtype not in (torch.uint8, torch.int8):
        raise TypeError(f"dtype: expected torch.uint8 or torch.int8, got {dtype}")
    info = torch.iinfo(dtype)
    return info.min, info.max


def weight_scales(weight: Tensor) -> Tensor:
    """max |w| / 127 over each output channel of `weight` (K, ...): (K) float32; 1 where all of it is zero."""
    greatest = weight.detach().abs().flatten(1).amax(dim=1).float()
    scales = (greatest / WEIGHT_MAX).clamp(min=torch.finfo(torch.float32).tiny)
    return torch.where(greatest > 0, scales, 1.0)


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight (K, ...) as int8 in [−127, 127] and its scales (K) float32, symmetric per output channel.

    Raises ValueError if a weight is not finite.
    """
    if not bool(torch.isfinite(weight).all()):
        raise ValueError("weight: expected finite values, got some that are not")
    scales = weight_scales(weight)
    q = (weight.detach().float() / per_channel(scales, weight)).round_().clamp_(-WEIGHT_MAX, WEIGHT_MAX)
    return q.to(torch.int8), scales


def dequantize_weight(q: Tensor, scales: Tensor) -> Tensor:
    """scales[k] · q[k], float32 in the shape and memory format of q (K, ...)."""
    return q.float() * per_channel(scales, q)


def per_channel(values: Tensor, weight: Tensor) -> Tensor:
    """Values (K), shaped to be broadcast over `weight` (K, ...)."""
    return values.view(-1, *[1] * (weight.dim() - 1))
