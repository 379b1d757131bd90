"""The simulation of a CP layer, whose two 1×1 stages are computed with int8."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .affine import WEIGHT_MAX
from .conversion import form_of, int8_layer
from .quantizer import Mode
from .simulation import Simulated, SimulatedLayer, on_grid


class SimulatedCP(SimulatedLayer):
    """A CP layer with the batch norm and the ReLU that follow it.

    What each component has after the depthwise stages is put on a grid of its own, symmetric, over the range
    that was seen in calibration. A batch norm is folded into factor_k. In eval mode the int8 layer itself
    computes: only that rounds as it does in the depthwise stages.

    Attributes, besides those of the base:
        inner_range: (R), the greatest magnitudes seen.
    """

    def __init__(self, layer: nn.Module, *args: Any, **options: Any) -> None:
        super().__init__(layer, *args, **options)
        self.register_buffer("inner_range", layer.factor_c.new_zeros(len(layer.factor_c)))

    @property
    def weight(self) -> Tensor:
        return self.layer.factor_k

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        c, h, w = self.layer.factor_c, self.layer.factor_h, self.layer.factor_w
        simulated = self.mode is Mode.SIMULATE
        inner = form_of(self.layer).inner(self.layer, x, on_grid(c) if simulated else c, h, w)
        if self.mode is Mode.CALIBRATE:
            self.inner_range.copy_(self.inner_range.maximum(inner.detach().abs().amax((0, 2, 3))))
        if simulated:
            inner = _Rounded.apply(inner, self.inner_scale().view(-1, 1, 1))
        return form_of(self.layer).apply(self.layer, inner, weight, bias)

    def inner_scale(self) -> Tensor:
        """(R): the steps of the grids between the stages."""
        scale = (self.inner_range / WEIGHT_MAX).clamp(min=torch.finfo(torch.float32).tiny)
        return torch.where(self.inner_range > 0, scale, 1.0)

    def weight_on_grid(self, weight: Tensor) -> Tensor:
        groups = self.layer.groups
        scales = self.inner_scale().view(groups, 1, -1).expand(-1, len(weight) // groups, -1)
        scales = scales.reshape(weight.shape)
        return on_grid(weight * scales) / scales

    def compute_exactly(self, x: Tensor) -> Tensor:
        return Simulated.compute_exactly(self, x)

    @torch.no_grad()
    def output_error(self) -> Callable[[Tensor], Tensor]:
        weight, _ = self.folded()
        rounded = self.weight_on_grid(weight)
        form, factors = form_of(self.layer), (self.layer.factor_c, self.layer.factor_h, self.layer.factor_w)

        def error(x: Tensor) -> Tensor:
            exact = form.apply(self.layer, form.inner(self.layer, x, *factors), weight, None)
            return self.apply(x, rounded, None) - exact

        return error

    def convert(self) -> nn.Module:
        layer = copy.deepcopy(self.layer)
        weight, bias = self.folded()
        layer.factor_k = nn.Parameter(weight.detach().clone())
        layer.bias = nn.Parameter(self.corrected(bias).detach().clone())
        output = None if self.output is None else self.output.grid()
        return int8_layer(layer, self.inputs[0].grid(), output, self.relu, inner_scale=self.inner_scale())


class _Rounded(torch.autograd.Function):
    """clamp(round(x / scale)) · scale, with the rounding's gradient taken as 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        steps = torch.div(x, scale)
        ctx.save_for_backward(steps.abs() <= WEIGHT_MAX + 0.5)
        return steps.round_().clamp_(-WEIGHT_MAX, WEIGHT_MAX).mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (inside,) = ctx.saved_tensors
        return gradient * inside, None
