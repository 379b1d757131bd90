"""A model prepared for quantization: it computes in float, looks on, or simulates what int8 kernels do."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .quantizer import Mode, Quantizer
from .report import LayerReport, Quantized, Report
from .simulation import Simulated, SimulatedLayer

Batch = Tensor | tuple[Any, ...] | list[Any]


class Prepared(nn.Module):
    """A copy of a model that simulates its int8 form; made by `prepare`.

    In training mode it is trained like any other model, with what int8 will do to its activations and weights
    in the forward pass and straight-through gradients in the backward one. In eval mode it gives, without
    gradients, exactly what `convert()` will.

    Attributes:
        network: the model, with simulating modules in place of what will be computed with integers.
        quantizers: the grids of its activations.
        floats: {name: why it stays in float32}.
        fallback: why the model could not be traced, so that all layers take and give float32; None if it was.
    """

    def __init__(
        self,
        network: nn.Module,
        quantizers: dict[str, Quantizer],
        floats: dict[str, str],
        fallback: str | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.quantizers = nn.ModuleDict(quantizers)
        self.floats = floats
        self.fallback = fallback

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model returns."""
        return self.network(*args, **kwargs)

    def set_mode(self, mode: Mode) -> None:
        """What the simulating modules do from now on."""
        for module in self.modules():
            if isinstance(module, Simulated | Quantizer):
                module.mode = mode

    def layers(self) -> dict[str, SimulatedLayer]:
        """The layers that will be computed with int8, by their names in the model."""
        found = {}
        for name, module in self.network.named_modules():
            if isinstance(module, SimulatedLayer):
                found[name.removesuffix(".layer") if self.fallback else name] = module
        return found

    def range_parameters(self) -> list[nn.Parameter]:
        """The logarithms of the scales that are learned; they want no weight decay."""
        return [each.log_scale for each in self.quantizers.values() if each.learns]

    def freeze_batch_norm(self) -> None:
        """Batch norms keep their statistics from now on, and use them in training too.

        Late in the training, so that its end sees the weights that the int8 layers will have.
        """
        for layer in self.layers().values():
            layer.frozen = True

    def hold_ranges(self) -> None:
        """The grids of activations stay where they are from now on."""
        for quantizer in self.quantizers.values():
            quantizer.hold()

    def convert(self) -> Quantized:
        """The int8 model in eval mode, and a report. This one stays as it is."""
        memo = {
            id(module): module.convert().eval()
            for module in self.network.modules()
            if isinstance(module, Simulated)
        }
        if self.fallback is None:  # a dropout may stand between integers
            drops = [m for m in self.network.modules() if isinstance(m, nn.Dropout | nn.Dropout2d)]
            memo |= {id(module): nn.Identity() for module in drops}
        return Quantized(copy.deepcopy(self.network, memo).eval(), self.report())

    def report(self) -> Report:
        """What is computed how."""
        rows = [
            LayerReport(name, type(layer.layer).__name__, _type_of(layer.inputs[0]), _type_of(layer.output))
            for name, layer in self.layers().items()
        ]
        return Report(rows, dict(self.floats), self.fallback)


def batches_of(calibration_batches: Iterable[Batch]) -> list[Batch]:
    """All of them. Raises TypeError for one tensor, whose images would be taken for batches."""
    if isinstance(calibration_batches, Tensor):
        raise TypeError(
            "calibration_batches: expected batches, such as a list of tensors, got a tensor of shape "
            f"{tuple(calibration_batches.shape)}"
        )
    return list(calibration_batches)


@torch.no_grad()
def calibrate(prepared: Prepared, batches: list[Batch]) -> None:
    """Let the observers see the batches, fix the grids, and simulate from then on."""
    if not batches:
        raise ValueError("calibration_batches: expected at least one, got none")
    prepared.set_mode(Mode.CALIBRATE)
    for batch in batches:
        run(prepared, batch)
    for name, quantizer in prepared.quantizers.items():
        try:
            quantizer.fix()
        except ValueError as error:
            raise ValueError(f"calibration_batches: at {name}: {error}") from error
    prepared.set_mode(Mode.SIMULATE)


def run(model: nn.Module, batch: Batch) -> Any:
    """The model's output for a batch."""
    return model(*batch) if isinstance(batch, tuple | list) else model(batch)


def _type_of(quantizer: Quantizer | None) -> str:
    return "float32" if quantizer is None else str(quantizer.dtype).removeprefix("torch.")
