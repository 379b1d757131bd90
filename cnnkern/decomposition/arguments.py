"""What every decomposition asks of the weight, and of whole numbers."""

from __future__ import annotations

import operator

import torch
from torch import Tensor


def check_weight(weight: Tensor) -> None:
    """A finite (K, C, kH, kW) floating-point tensor on the CPU or a CUDA device.

    Raises TypeError, ValueError or NotImplementedError otherwise.
    """
    if not isinstance(weight, Tensor):
        raise TypeError(f"weight: expected a torch.Tensor, got {type(weight).__name__}")
    if weight.dim() != 4:
        raise ValueError(f"weight: expected 4 dimensions (K, C, kH, kW), got shape {tuple(weight.shape)}")
    if weight.numel() == 0:
        raise ValueError(f"weight: expected one that is not empty, got shape {tuple(weight.shape)}")
    if not weight.is_floating_point():
        raise NotImplementedError(f"weight: expected a real floating-point dtype, got {weight.dtype}")
    if weight.device.type not in ("cpu", "cuda"):
        raise NotImplementedError(f"weight: expected the CPU or a CUDA device, got {weight.device}")
    if not torch.isfinite(weight).all():
        raise ValueError("weight: expected finite values, got NaN or infinity among them")


def integer(name: str, value: int, least: int | None = None) -> int:
    """The value as an int; TypeError if it is none, ValueError if it is below `least`."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    value = operator.index(value)
    if least is not None and value < least:
        raise ValueError(f"{name}: expected at least {least}, got {value}")
    return value
