"""Quantization-aware training: the int8 model is simulated while its float weights are trained.

Jacob et al. 2018, section 3; Krishnamoorthi, Quantizing deep convolutional networks for efficient inference,
2018; Esser et al., Learned step size quantization, ICLR 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

import torch
from torch import nn

from .build import build
from .observers import LeastSquares, Observer
from .prepared import Batch, Prepared, batches_of, calibrate


def prepare(
    model: nn.Module,
    calibration_batches: Iterable[Batch],
    *,
    ranges: str = "learned",
    observer: Callable[[], Observer] = LeastSquares,
    first: bool = True,
    last: bool = True,
    keep: Collection[str] = (),
    dtype: torch.dtype = torch.uint8,
) -> Prepared:
    """A copy of `model` for quantization-aware training, calibrated and in training mode.

    A trained float model is the start. Train it further with a small learning rate, call `freeze_batch_norm`
    and `hold_ranges` late in the training, and `convert()` at its end. Dropout layers drop in training;
    `torch.nn.functional.dropout`, traced in eval mode, does not.

    Args:
        model: its `torch.nn.Conv2d`, `torch.nn.Linear`, `Im2colConv2d`, `CPConv2d` and `ColumnSparseConv2d`
            will be computed with int8. It is not changed.
        calibration_batches: inputs of the model, each a tensor or a tuple of its arguments.
        ranges: what becomes of the grids of activations in training: "learned", the scales are parameters
            (LSQ); "observed", the grids follow moving averages of the ranges (Jacob et al. 2018).
        observer: makes what chooses the range of each activation from the calibration batches.
        first, last: whether the first and the last layer are computed with int8 as well.
        keep: names of layers that stay in float32.
        dtype: of the activations, uint8 or int8.

    Raises ValueError for no batches, unknown names and values that are not finite, TypeError for a model or
    batches of another type.
    """
    if ranges not in ("learned", "observed"):
        raise ValueError(f"ranges: expected 'learned' or 'observed', got {ranges!r}")
    batches = batches_of(calibration_batches)
    prepared = build(model, observer=observer, first=first, last=last, keep=keep, dtype=dtype)
    calibrate(prepared, batches)
    for quantizer in prepared.quantizers.values():
        quantizer.learn() if ranges == "learned" else quantizer.follow()
    return prepared.train()
