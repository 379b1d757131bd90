"""Real numbers as quantized ones."""

from typing import Any

import torch
from torch import Tensor

from cnnkern.ops.arguments import check_device
from cnnkern.ops.dispatch import register_fake, run_checked
from cnnkern.ops.int8_arguments import ACTIVATION_DTYPES, check_scale, check_zero_point, register_integers

_int8_quantize = torch.ops.cnnkern.int8_quantize.default


def int8_quantize(x: Tensor, scale: float, zero_point: int, dtype: torch.dtype = torch.uint8) -> Tensor:
    """The integers q nearest to real numbers x ≈ scale·(q − zero_point).

    Args:
        x: float32 of any shape, its axes in any order in memory; a copy is made of one with gaps.
        scale: positive.
        zero_point: a value of dtype.
        dtype: torch.uint8 or torch.int8.

    Returns:
        clamp(round(x / scale) + zero_point) with the shape and the memory format of x, in `dtype`: divided in
        float32, by the float32 nearest to scale, and rounded to nearest with ties to even. NaN becomes 0.

    Raises:
        ValueError: a wrong number, or another dtype of integers.
        TypeError: something that is no tensor, or no number.
        NotImplementedError: a dtype of x or a device without a kernel.
    """
    return run_checked(_int8_quantize, _check, (x, scale, zero_point, dtype))


def _check(x: Any, scale: Any, zero_point: Any, dtype: Any) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"x: expected a tensor, got {type(x).__name__}")
    check_device("x", x)
    if x.dtype is not torch.float32:
        raise NotImplementedError(f"x: expected float32, got {x.dtype}: no kernel for it")
    if dtype not in ACTIVATION_DTYPES:
        raise ValueError(f"dtype: expected torch.uint8 or torch.int8, got {dtype!r}")
    check_scale("scale", scale)
    check_zero_point("zero_point", zero_point, dtype)


@register_fake("int8_quantize")
def _fake(x: Tensor, scale: float, zero_point: int, dtype: torch.dtype) -> Tensor:
    _check(x, scale, zero_point, dtype)
    return torch.empty_like(x, dtype=dtype)


register_integers("int8_quantize")
