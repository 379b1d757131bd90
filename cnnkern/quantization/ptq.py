"""Post-training quantization: grids from calibration batches, biases corrected for the weights' error.

Jacob et al. 2018; Nagel et al., Data-free quantization through weight equalization and bias correction, ICCV
2019 (the correction, here from the calibration batches).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn

from .build import build
from .observers import LeastSquares, Observer
from .prepared import Batch, Prepared, batches_of, calibrate, run
from .quantizer import Mode
from .report import Quantized
from .simulation import SimulatedLayer


def quantize(
    model: nn.Module,
    calibration_batches: Iterable[Batch],
    *,
    observer: Callable[[], Observer] = LeastSquares,
    bias_correction: bool = True,
    first: bool = True,
    last: bool = True,
    keep: Collection[str] = (),
    dtype: torch.dtype = torch.uint8,
) -> Quantized:
    """The int8 form of a trained model, in eval mode, and a report of how exact its layers are.

    Batch norms are folded, layers pass integers on to each other where the model's graph allows it, and the
    report says what stays in float32 and why. A model that `torch.fx` cannot trace gets int8 layers with
    float32 between them.

    Structure and names follow from the model and the arguments alone: what `cnnkern.save` keeps of an int8
    model fits into the one that any other batch gives, `cnnkern.load(path, quantize(model, [batch]).model)`.

    Args:
        model: its `torch.nn.Conv2d`, `torch.nn.Linear`, `Im2colConv2d`, `CPConv2d` and `ColumnSparseConv2d`
            become int8 layers. It is not changed.
        calibration_batches: inputs of the model, each a tensor or a tuple of its arguments; a hundred images
            like those to come are enough.
        observer: makes what chooses the range of each activation.
        bias_correction: add what the weights' errors change in the mean of each output channel to the bias.
        first, last: whether the first and the last layer are computed with int8 as well.
        keep: names of layers that stay in float32.
        dtype: of the activations, uint8 or int8.

    Raises ValueError for no batches, unknown names and values that are not finite, TypeError for a model or
    batches of another type.
    """
    batches = batches_of(calibration_batches)
    prepared = build(model, observer=observer, first=first, last=last, keep=keep, dtype=dtype)
    calibrate(prepared, batches)
    if bias_correction:
        correct_biases(prepared, batches)
    quantized = prepared.convert()
    ratios = signal_to_noise(prepared, batches)
    for row in quantized.report.layers:
        row.snr = ratios.get(row.name)
    return quantized


@torch.no_grad()
def correct_biases(prepared: Prepared, batches: list[Batch]) -> None:
    """Subtract from each bias the mean of what the weight's error adds to the output, over all positions.

    The inputs are those that the int8 layers get. The mean of an output is then, but for rounding, that of
    the float weight, whatever happens in the layers before.
    """
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def add(
        name: str, error: Callable[[Tensor], Tensor], layer: SimulatedLayer, inputs: tuple[Tensor, ...]
    ) -> None:
        y = error(inputs[0])
        channels_first = y.movedim(-1 if isinstance(layer.layer, nn.Linear) else -3, 0).flatten(1)
        sums[name] = sums.get(name, 0) + channels_first.double().sum(dim=1)
        counts[name] = counts.get(name, 0) + channels_first.shape[1]

    with ExitStack() as hooks:
        for name, layer in prepared.layers().items():
            hook = partial(add, name, layer.output_error())
            hooks.enter_context(layer.register_forward_pre_hook(hook))
        for batch in batches:
            run(prepared, batch)
    for name, layer in prepared.layers().items():
        if counts.get(name):
            layer.correction.copy_(-sums[name] / counts[name])


@torch.no_grad()
def signal_to_noise(prepared: Prepared, batches: list[Batch]) -> dict[str, float]:
    """{layer: 10 log10 of the output's power over that of the int8 model's error}, over all batches.

    A layer that was never called has none.
    """
    outputs: dict[str, list[Tensor]] = {}
    powers: dict[str, list[float]] = {}
    with ExitStack() as hooks:
        for name, layer in prepared.layers().items():

            def keep(_: nn.Module, __: object, y: Tensor, name: str = name) -> None:
                outputs.setdefault(name, []).append(y)

            hooks.enter_context(layer.register_forward_hook(keep))
        for batch in batches:
            outputs.clear()
            for mode in (Mode.FLOAT, Mode.SIMULATE):
                prepared.set_mode(mode)
                run(prepared, batch)
            for name, calls in outputs.items():
                exact, simulated = calls[: len(calls) // 2], calls[len(calls) // 2 :]
                power = powers.setdefault(name, [0.0, 0.0])
                for y, other in zip(exact, simulated, strict=True):
                    power[0] += float(y.double().square().sum())
                    power[1] += float((y.double() - other).square().sum())
    return {name: _decibels(*power) for name, power in powers.items()}


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf
