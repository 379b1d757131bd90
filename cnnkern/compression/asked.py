"""What `cnnkern.compress` is given, checked before the long work starts."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from cnnkern import _C
from cnnkern.compression.losses import ROUNDING
from cnnkern.compression.methods import METHODS
from cnnkern.compression.running import call, inference


def check_asked(
    target: float | None,
    most: float | None,
    methods: Sequence[str],
    seconds: float,
    functions: Mapping[str, Any],
    seed: int,
) -> None:
    """Raises TypeError or ValueError, naming the argument; `functions` are those that may be None."""
    for name, value in (("target_speedup", target), ("max_loss_increase", most), ("seconds", seconds)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, Real)):
            raise TypeError(f"{name}: expected a number, got {value!r}")
    if not isinstance(seed, int):
        raise TypeError(f"seed: expected an int, got {seed!r}")
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise TypeError(f"{name}: expected a function, got {type(function).__name__}")
    if (target is None) == (most is None):
        raise ValueError(
            f"target_speedup, max_loss_increase: expected one of them, got {target!r} and {most!r}"
        )
    if target is not None and not 1 < target < math.inf:
        raise ValueError(f"target_speedup: expected a number above 1, got {target!r}")
    if most is not None and not 0 <= most < math.inf:
        raise ValueError(f"max_loss_increase: expected a number of at least 0, got {most!r}")
    if isinstance(methods, str) or not isinstance(methods, Iterable):
        raise TypeError(f"methods: expected a sequence of names, got {methods!r}")
    for name in methods:
        if name not in METHODS:
            raise ValueError(f"methods: expected some of {', '.join(METHODS)}, got {name!r}")
    if not seconds > 0:
        raise ValueError(f"seconds: expected more than 0, got {seconds!r}")


def check_device(device: torch.device) -> None:
    """NotImplementedError for one that there are no kernels for."""
    if device.type not in ("cpu", "cuda"):
        raise NotImplementedError(f"model: expected one on the CPU or a CUDA device, got one on {device}")
    build = _C.build_info()
    if device.type == "cuda" and not build["cuda"]:
        raise NotImplementedError(
            f"model: expected one on the CPU, since cnnkern was built without CUDA kernels "
            f"({build['cuda_reason']}), got one on {device}"
        )


def copied(model: nn.Module) -> nn.Module:
    """A deep copy; ValueError where there can be none."""
    try:
        return copy.deepcopy(model)
    except Exception as error:  # such as where a weight is computed by an old torch.nn.utils.weight_norm
        raise ValueError(
            f"model: expected one that can be copied, got {type(error).__name__}: {error}"
        ) from error


def batches_of(original: nn.Module, example: Any, calibration: Iterable[Any] | None) -> list[Any]:
    """The calibration, of which the model can be run on the first batch."""
    if calibration is None:
        return [example]
    if isinstance(calibration, Tensor | Mapping | str) or not isinstance(calibration, Iterable):
        raise TypeError(
            f"calibration: expected batches, such as a list of them, got a {type(calibration).__name__}"
        )
    batches = list(calibration)
    if not batches:
        raise ValueError("calibration: expected at least one batch, got none")
    try:
        with inference(original):
            call(original, batches[0])
    except Exception as error:  # whatever the model's own code raises
        raise ValueError(
            "calibration: expected batches that the model is called with, like example_input, got one with "
            f"which it fails: {type(error).__name__}: {error}"
        ) from error
    return batches


def check_loss(loss: float, diverges: bool) -> None:
    """ValueError for a loss of the original, or its distance from itself, that no plan can be made by."""
    if diverges and not loss <= ROUNDING:
        raise ValueError(
            "model: expected the same finite outputs whenever it is run on one batch in eval mode, got "
            f"ones that differ by {loss:.3g}: does it write to its inputs, or draw random numbers? For "
            "these, give `evaluate`"
        )
    if not math.isfinite(loss):
        raise ValueError(f"evaluate: expected a finite loss of the original, got {loss}")
