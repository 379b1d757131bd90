"""An int8 convolution between float32 layers: it quantizes its input itself, and gives float32.

Its weight is rounded once; its grid, and what rounding the weight does to the mean of each output channel,
come from the activations that it gets (Jacob et al. 2018; the correction: Nagel et al. 2019).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cnnkern.compression.linking import link, unlink
from cnnkern.compression.rewriting import swapped
from cnnkern.nn import Int8Conv2d
from cnnkern.quantization import Affine, LeastSquares, MinMax
from cnnkern.quantization.quantizer import Mode, Quantizer
from cnnkern.quantization.simulation import SimulatedLayer, SimulatedQuantize

LEAST_POSITIONS = 64  # a mean over fewer says more about them than about the layer


def without_grid(conv: nn.Conv2d) -> Int8Conv2d:
    """The layer of a convolution, as fast as it will be, with a grid that is still to be chosen."""
    return Int8Conv2d.from_conv(conv, x_scale=1.0, x_zero_point=0)


@torch.no_grad()
def calibrated(layer: Int8Conv2d, pairs: Sequence[tuple[Tensor, Tensor]]) -> Int8Conv2d:
    """A copy with the grid of least squared error on the inputs (N, C, H, W), and with a bias that leaves no
    output channel another mean than that of the targets (N, K, oH, oW)."""
    layer = copy.deepcopy(layer)
    observer = LeastSquares()
    for x, _ in pairs:
        observer(x.nan_to_num())  # a network that overflows loses by that, and has a grid nevertheless
    grid = Affine.from_range(*observer.range(), layer.x_dtype)
    layer.x_scale = torch.tensor(grid.scale, dtype=torch.float64)
    layer.x_zero_point = torch.tensor(grid.zero_point)
    missing = sum((y - layer(x)).double().sum(dim=(0, 2, 3)) for x, y in pairs)
    positions = sum(y[:, 0].numel() for _, y in pairs)
    if positions >= LEAST_POSITIONS:
        mean = (missing / positions).float()
        layer.bias = mean if layer.bias is None else layer.bias + mean
    return layer


@contextmanager
def trainable(model: nn.Module) -> Iterator[nn.Module]:
    """The model with its int8 convolutions as real ones on their grids, for as long as the block lasts.

    Rounding has the gradient 1 there. Afterwards the layers are in their places again, with the integers
    nearest to the weights that were trained, the biases, and the grids that they had. Layers that give
    integers to something else than int8 convolutions have no such form, and stay as they are.
    """
    linked = unlink(model)
    layers = [each for each in model.modules() if type(each) is Int8Conv2d and each.out_scale is None]
    simulated = {layer: _simulated(layer) for layer in layers}
    with swapped(model, simulated) as changed:
        yield changed
    for layer, (_, trained) in simulated.items():
        layer._set_weight(trained.layer.weight, None, trained.layer.bias)
    if linked:
        link(model)


def _simulated(layer: Int8Conv2d) -> nn.Sequential:
    x_scale, x_zero_point, *_ = layer.numbers()
    grid = Affine(x_scale, x_zero_point, layer.x_dtype)
    quantizer = Quantizer(MinMax(), layer.x_dtype)
    quantizer.set_range(grid.low, grid.high)
    parts = (
        SimulatedQuantize(quantizer),
        SimulatedLayer(layer.to_conv(), None, quantizer, None, relu=layer.relu),
    )
    for module in (quantizer, *parts):
        module.mode = Mode.SIMULATE
    return nn.Sequential(*parts).to(layer.weight.device)
