"""The grid of one activation, observed or learned, simulated in training with straight-through gradients.

Learned: Esser et al., Learned step size quantization, ICLR 2020, and of the step's logarithm, as Jain et al.,
Trained quantization thresholds, MLSys 2020: a scale is small against the gradients that it gets, and plain
gradient descent on the scale itself makes it negative in a step.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from .affine import Affine, limits
from .observers import MovingAverage, Observer


class Mode(Enum):
    """What the simulating modules of a prepared model do in a call."""

    FLOAT = "float"  # nothing: they compute what the float model does
    CALIBRATE = "calibrate"  # the same, and observers look on
    SIMULATE = "simulate"  # what the int8 model will do


class Quantizer(nn.Module):
    """Holds the grid of an activation, and puts values on it.

    In training it is differentiable, with the gradient of the rounding taken as 1; in eval mode it does
    exactly what quantizing and dequantizing do, and has no gradient.

    Args:
        observer: gets the values while `mode` is CALIBRATE.
        dtype: uint8 or int8.
        ceiling: a value that the grid must not exceed, such as the 6 of a ReLU6 that it stands for.

    The logarithm of the scale is the parameter `log_scale` while it is learned, else the buffer `kept`: other
    processes get it from the first one, no optimizer moves it, and a `state_dict` has it as `log_scale`. A
    parameter that is learned no more still gets gradients, of zero: DistributedDataParallel waits for them.
    """

    def __init__(
        self, observer: Observer, dtype: torch.dtype = torch.uint8, ceiling: float = math.inf
    ) -> None:
        super().__init__()
        self.observer = observer
        self.dtype = dtype
        self.ceiling = ceiling
        self.mode = Mode.FLOAT
        self.follows = self.learns = False
        self.log_scale = nn.Parameter(torch.tensor(0.0), requires_grad=False)
        self.register_buffer("kept", torch.tensor(0.0), persistent=False)
        self.register_buffer("zero_point", torch.tensor(limits(dtype)[0]))

    def set_range(self, low: float, high: float) -> None:
        """Put the grid over [low, high] and zero."""
        grid = Affine.from_range(min(low, self.ceiling), min(high, self.ceiling), self.dtype)
        with torch.no_grad():
            for each in (self.log_scale, self.kept):
                each.fill_(math.log(grid.scale))
        self.zero_point.fill_(grid.zero_point)

    def fix(self) -> None:
        """Put the grid where the observer says, for good."""
        self.set_range(*self.observer.range())

    def follow(self, rate: float = 0.01) -> None:
        """From now on the grid follows a moving average of the ranges seen in training."""
        grid = self.grid()
        self.observer = MovingAverage(rate).to(self.log_scale.device)
        self.observer(torch.tensor([grid.low, grid.high], device=self.log_scale.device))
        self.follows = True

    def learn(self) -> None:
        """From now on the logarithm of the scale is to be trained; the zero point stays where it is."""
        self.log_scale.requires_grad_(True)
        self.learns = True

    @torch.no_grad()
    def hold(self) -> None:
        """From now on the grid stays where it is."""
        if self.learns:
            self.kept.copy_(self.log_scale)
        self.follows = self.learns = False

    def grid(self) -> Affine:
        """The grid as numbers."""
        return Affine(float(self._scale().detach()), int(self.zero_point), self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """`x` on the grid, or as it is where `mode` says so."""
        if self.mode is Mode.CALIBRATE:
            return self.observer(x)
        if self.mode is Mode.FLOAT:
            return x
        if not self.training:
            grid = self.grid()
            return grid.dequantize(grid.quantize(x))
        if self.follows:
            self.observer(x)
            self.fix()
        least, greatest = limits(self.dtype)
        z = int(self.zero_point)
        idle = None if self.learns else self.log_scale
        return _FakeQuantize.apply(x.float(), self._scale(), least - z, greatest - z, idle)

    def _scale(self) -> Tensor:
        """The scale, positive whatever an optimizer has made of it, with the grid below the ceiling."""
        steps = max(limits(self.dtype)[1] - int(self.zero_point), 1)
        log_scale = self.log_scale if self.learns else self.kept
        return log_scale.exp().clamp(torch.finfo(torch.float32).tiny, self.ceiling / steps)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not self.learns:
            destination[f"{prefix}log_scale"] = self.kept if keep_vars else self.kept.detach()

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.kept.copy_(self.log_scale.detach())


class _FakeQuantize(torch.autograd.Function):
    """y = scale · clamp(round(x / scale), least, greatest), with the rounding's gradient taken as 1.

    dy/dx is then 1 where nothing is clamped and 0 elsewhere, and dy/dscale = (y − x · dy/dx) / scale; `idle`,
    a scalar without a part in it, gets 0.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, least: int, greatest: int, idle: Tensor | None) -> Tensor:
        y = torch.div(x, scale).round_().clamp_(least, greatest).mul_(scale)
        ctx.save_for_backward(x, y, scale)
        ctx.limits = least - 0.5, greatest + 0.5
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, y, scale = ctx.saved_tensors
        low, high = (float(scale) * limit for limit in ctx.limits)
        of_x = torch.ops.aten.hardtanh_backward.default(gradient, x, low, high)
        of_scale = None
        if ctx.needs_input_grad[1]:
            of_scale = ((gradient * y).sum() - (of_x * x).sum()) / scale
        of_idle = torch.zeros_like(scale) if ctx.needs_input_grad[4] else None
        return of_x, of_scale, None, None, of_idle
