"""Modules of a prepared model: each computes in floating point what one module of the int8 model will do.

In training the values on the grids stay differentiable, the convolutions are those of torch and sums round as
they do. In eval mode accumulators are exact and each rounding is the kernel's: what comes out are the
integers of the int8 model, dequantized.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnkern.folding import fold

from .affine import dequantize_weight, per_channel, quantize_weight, weight_scales
from .conversion import form_of, int8_layer
from .integer import Dequantize, IntegerAdd, IntegerAveragePool, IntegerMaxPool, IntegerRelu, Quantize
from .quantizer import Mode, Quantizer

# Up to here float32 holds every integer, so that a sum of them is exact in any order.
EXACT_IN_FLOAT32 = 2**24


class Simulated(nn.Module):
    """Base. The quantizers belong to the prepared model: they are shared, and not submodules of this one.

    Attributes:
        inputs: the quantizers whose grids the inputs are on.
        output: the one that puts the output on its grid, or None where the output is float32.
    """

    def __init__(self, inputs: tuple[Quantizer, ...], output: Quantizer | None) -> None:
        super().__init__()
        self.mode = Mode.FLOAT
        self._quantizers = inputs, output

    @property
    def inputs(self) -> tuple[Quantizer, ...]:
        return self._quantizers[0]

    @property
    def output(self) -> Quantizer | None:
        return self._quantizers[1]

    def forward(self, *x: Tensor) -> Tensor:
        if self.mode is not Mode.SIMULATE or self.training:
            y = self.compute(*x)
            return y if self.output is None else self.output(y)
        with torch.autocast(x[0].device.type, enabled=False):
            return self.compute_exactly(*x)

    def compute(self, *x: Tensor) -> Tensor:
        """What the float model does; the layers simulate their weights here, where `mode` says so."""
        raise NotImplementedError

    def compute_exactly(self, *x: Tensor) -> Tensor:
        """What the int8 model does: by default, with its own module."""
        integers = [quantizer.grid().quantize(each) for quantizer, each in zip(self.inputs, x, strict=True)]
        y = self.convert()(*integers)
        return y if self.output is None else self.output.grid().dequantize(y)

    def convert(self) -> nn.Module:
        """The module of the int8 model that takes and gives integers where there are quantizers."""
        raise NotImplementedError


class SimulatedQuantize(Simulated):
    """Where values enter a part that is computed in integers."""

    def __init__(self, output: Quantizer) -> None:
        super().__init__((), output)

    def compute(self, x: Tensor) -> Tensor:
        return x

    def compute_exactly(self, x: Tensor) -> Tensor:
        return self.output(x)

    def convert(self) -> Quantize:
        return Quantize(self.output.grid())


class SimulatedDequantize(Simulated):
    """Where values leave it."""

    def __init__(self, input: Quantizer) -> None:
        super().__init__((input,), None)

    def compute(self, x: Tensor) -> Tensor:
        return x

    def convert(self) -> Dequantize:
        return Dequantize(self.inputs[0].grid())


class SimulatedAdd(Simulated):
    """a + b, and a ReLU if one follows."""

    def __init__(self, first: Quantizer, second: Quantizer, output: Quantizer, relu: bool) -> None:
        super().__init__((first, second), output)
        self.relu = relu

    def compute(self, a: Tensor, b: Tensor) -> Tensor:
        return F.relu(a + b) if self.relu else a + b

    def convert(self) -> IntegerAdd:
        return IntegerAdd(*(each.grid() for each in (*self.inputs, self.output)), self.relu)


class SimulatedAveragePool(Simulated):
    """An average over positions, and a ReLU if one follows."""

    def __init__(self, pool: nn.Module, input: Quantizer, output: Quantizer, relu: bool) -> None:
        super().__init__((input,), output)
        self.pool = pool
        self.relu = relu

    def compute(self, x: Tensor) -> Tensor:
        return F.relu(self.pool(x)) if self.relu else self.pool(x)

    def convert(self) -> IntegerAveragePool:
        return IntegerAveragePool(self.pool, self.inputs[0].grid(), self.output.grid(), self.relu)


class SimulatedRelu(Simulated):
    """A ReLU, or a ReLU6, that no layer computes with its own output."""

    def __init__(self, grid: Quantizer, ceiling: float | None) -> None:
        super().__init__((grid,), grid)
        self.ceiling = ceiling

    def compute(self, x: Tensor) -> Tensor:
        return F.relu(x) if self.ceiling is None else x.clamp(0, self.ceiling)

    def convert(self) -> IntegerRelu:
        return IntegerRelu(self.inputs[0].grid(), self.ceiling)


class SimulatedMaxPool(Simulated):
    """Max pooling, which leaves values on their grid."""

    def __init__(self, pool: IntegerMaxPool) -> None:
        super().__init__((), None)
        self.pool = pool

    def compute(self, x: Tensor) -> Tensor:
        pool = self.pool
        return F.max_pool2d(
            x, pool.kernel_size, pool.stride, pool.padding, pool.dilation, ceil_mode=pool.ceil_mode
        )

    def compute_exactly(self, x: Tensor) -> Tensor:
        return self.compute(x)

    def convert(self) -> IntegerMaxPool:
        return self.pool


class SimulatedLayer(Simulated):
    """A convolution or linear layer, dense or column-sparse, with the batch norm and the ReLU that follow it.

    Weights are put on their grid with the batch norm's running statistics folded in. In training that norm
    still uses the statistics of the batch, until `frozen`: since the grid is symmetric and per channel, it is
    the same to round a weight and then multiply its channel by the norm's factor as the other way round.

    Attributes:
        layer: the float layer, with the parameters that are trained.
        norm: the batch norm after it, or None.
        relu, ceiling: whether a ReLU follows, and its 6 if it is a ReLU6; the grid of the output ends there
            at the latest.
        correction: (K), added to the bias where the int8 model is simulated.
        frozen: the batch norm uses its running statistics in training too, and keeps them.
    """

    def __init__(
        self,
        layer: nn.Module,
        norm: nn.Module | None,
        input: Quantizer,
        output: Quantizer | None,
        *,
        relu: bool = False,
        ceiling: float | None = None,
    ) -> None:
        super().__init__((input,), output)
        self.layer = layer
        self.norm = norm
        self.relu = relu
        self.ceiling = ceiling
        self.frozen = norm is None
        self.register_buffer("correction", self.weight.new_zeros(self.weight.shape[0]))

    @property
    def weight(self) -> Tensor:
        """The layer's weight, or of factors the one (K, ...) whose rows are those of the output."""
        return self.layer.weight

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """The weight (K, ...) and bias (K) with the batch norm in them, without the correction."""
        if self.norm is None:
            return self.weight, self.layer.bias
        return fold(self.weight, self.layer.bias, self.norm)

    def corrected(self, bias: Tensor | None) -> Tensor:
        """The bias with the correction in it."""
        return self.correction if bias is None else bias + self.correction

    def compute(self, x: Tensor) -> Tensor:
        if self.mode is Mode.SIMULATE:
            y = self._compute_on_grid(x)
        else:
            y = self.apply(x, self.weight, self.layer.bias)
            y = y if self.norm is None else self.norm(y)
        if not self.relu:
            return y
        return F.relu(y) if self.ceiling is None else y.clamp(0, self.ceiling)

    def _compute_on_grid(self, x: Tensor) -> Tensor:
        if self.frozen:
            weight, bias = self.folded()
            return self.apply(x, self.weight_on_grid(weight), self.corrected(bias))
        return self.norm(self.apply(x, self.weight_on_grid(self.weight), self.layer.bias))

    @torch.no_grad()
    def compute_exactly(self, x: Tensor) -> Tensor:
        input, q_weight, scales, bias = self.inputs[0].grid(), *self.quantized()
        output = None if self.output is None else self.output.grid()
        out_scale = 1.0 if output is None else output.scale
        multiplier = (scales.double() * input.scale / out_scale).float()
        offset = (bias.double() / out_scale).float()
        total = self._accumulate(input.steps(input.quantize(x)), q_weight)
        # two roundings, as in the kernels
        y = total.mul_(self._over_channels(multiplier)).add_(self._over_channels(offset))
        if self.relu:
            y = y.relu_()
        return y if output is None else output.dequantize(output.round(y))

    def _accumulate(self, steps: Tensor, weight: Tensor) -> Tensor:
        """The sums of products of integers, each exact before it is rounded to float32."""
        greatest = 255 * int(weight.abs().int().flatten(1).sum(dim=1).max())
        exact = greatest <= EXACT_IN_FLOAT32 and steps.is_cpu and torch.backends.mkldnn.enabled
        kind = torch.float32 if exact else torch.float64
        return self.apply(steps.to(kind), weight.to(kind), None).float()

    def _over_channels(self, values: Tensor) -> Tensor:
        return values if isinstance(self.layer, nn.Linear) else values.view(-1, 1, 1)

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer with another weight and bias."""
        return form_of(self.layer).apply(self.layer, x, weight, bias)

    def weight_on_grid(self, weight: Tensor) -> Tensor:
        """A weight rounded to its grid, with the gradient of the rounding taken as 1."""
        return on_grid(weight)

    @torch.no_grad()
    def quantized(self) -> tuple[Tensor, Tensor, Tensor]:
        """The int8 layer's weight (K, ...) int8, its scales (K) and the bias (K), both float32."""
        weight, bias = self.folded()
        return *quantize_weight(weight), self.corrected(bias)

    @torch.no_grad()
    def output_error(self) -> Callable[[Tensor], Tensor]:
        """A function of the input: what the rounding of the weights adds to the output."""
        q_weight, scales, _ = self.quantized()
        error = dequantize_weight(q_weight, scales) - self.folded()[0]
        return lambda x: self.apply(x, error, None)

    def convert(self) -> nn.Module:
        layer = copy.deepcopy(self.layer)
        weight, bias = self.folded()
        layer.weight = nn.Parameter(weight.detach().clone())
        layer.bias = nn.Parameter(self.corrected(bias).detach().clone())
        output = None if self.output is None else self.output.grid()
        scales = weight_scales(weight)
        return int8_layer(layer, self.inputs[0].grid(), output, self.relu, weight_scale=scales)


def on_grid(weight: Tensor) -> Tensor:
    """`weight` rounded to its grid, with the gradient of the rounding taken as 1."""
    with torch.no_grad():
        scales = per_channel(weight_scales(weight), weight)
        error = (weight / scales).round_().mul_(scales).sub_(weight)
    return weight + error
