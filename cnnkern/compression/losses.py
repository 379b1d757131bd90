"""What a model loses: the user's own measure, or how far its outputs are from the original's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from cnnkern.compression.cost import tensors
from cnnkern.compression.running import call, inference
from cnnkern.nn.int8 import Int8Layer

ROUNDING = 1e-6  # of a loss: what layers that lose nothing may change
SAME = 1e-5  # of the outputs' power: what TF32 may change in the same network

Evaluate = Callable[[nn.Module], float]


class Divergence:
    """Σ‖f(x) − f₀(x)‖² / Σ‖f₀(x)‖² over batches, for the outputs f₀ of an original model: 0 for itself."""

    def __init__(self, original: nn.Module, batches: Sequence[Any]) -> None:
        self.batches = batches
        self.expected = [[y.clone() for y in outputs] for outputs in _real_outputs(original, batches)]
        if not any(self.expected):
            raise ValueError(
                "evaluate: expected a function, since the model's outputs have no tensors of real numbers"
            )

    def __call__(self, model: nn.Module) -> float:
        return _distance(_real_outputs(model, self.batches), self.expected)


def same_outputs(model: nn.Module, other: nn.Module, batch: Any) -> bool:
    """Whether both models give the same real numbers, up to rounding."""
    expected = [[y.clone() for y in outputs] for outputs in _real_outputs(model, [batch])]
    return _distance(_real_outputs(other, [batch]), expected) <= SAME


def _distance(found: Iterable[list[Tensor]], expected: Iterable[list[Tensor]]) -> float:
    missing = power = 0.0
    for outputs, wishes in zip(found, expected, strict=True):
        for y, wanted in zip(outputs, wishes, strict=True):
            missing += (y.double() - wanted.double()).square().sum().item()
            power += wanted.double().square().sum().item()
    return missing / (power or 1.0)


def _real_outputs(model: nn.Module, batches: Iterable[Any]) -> Iterable[list[Tensor]]:
    with inference(model):
        for batch in batches:
            yield [y for y in tensors(call(model, batch)) if y.is_floating_point()]


def checked(evaluate: Evaluate, model: nn.Module) -> float:
    """evaluate(model) in eval mode and without gradients, as a finite number or infinity.

    Raises TypeError or ValueError for what is no loss.
    """
    with inference(model):
        loss = evaluate(model)
    if isinstance(loss, Tensor) and loss.numel() == 1:
        loss = loss.item()
    if isinstance(loss, bool) or not isinstance(loss, Real):
        raise TypeError(f"evaluate: expected a function that returns a number, got {type(loss).__name__}")
    # a network that overflows is as bad as can be
    return float(loss) if math.isfinite(loss) else math.inf


def state_bytes(model: nn.Module) -> int:
    """Of parameters and buffers, each once."""
    return sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))


def parameter_count(model: nn.Module) -> int:
    """Learned numbers: the parameters, and what stands for them in int8 layers, which have buffers alone."""
    integers = [
        kept
        for module in model.modules()
        if isinstance(module, Int8Layer)
        for name, kept in module.named_buffers(recurse=False)
        if kept.dtype is torch.int8 or name == "bias"
    ]
    return sum(numbers.numel() for numbers in (*model.parameters(), *integers))
