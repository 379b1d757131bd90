"""Weight-only quantization: weights kept as int8, restored at each call, everything computed in float.

Menghani 2021, section 3.2: it makes a model a quarter of its size and saves no time.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import TypeVar

from torch import Tensor, nn

from .affine import dequantize_weight, quantize_weight
from .operations import why_not_int8
from .plan import kept_layers

Model = TypeVar("Model", bound=nn.Module)


class _Int8Weight:
    """Mixed into a layer: its weight is computed from the buffers `weight_int8` and `weight_scale`."""

    def __init__(self, layer: nn.Module) -> None:
        nn.Module.__init__(self)
        weight = layer.weight
        self.__dict__.update({**layer.__dict__, "_parameters": dict(layer._parameters)})
        self._buffers = dict(layer._buffers)
        del self._parameters["weight"]
        q, scales = quantize_weight(weight)
        self.register_buffer("weight_int8", q)
        self.register_buffer("weight_scale", scales)

    @property
    def weight(self) -> Tensor:
        """The weight (K, ...) that the integers stand for, in the type of the scales."""
        return dequantize_weight(self.weight_int8, self.weight_scale).to(self.weight_scale.dtype)


class Int8WeightConv2d(_Int8Weight, nn.Conv2d):
    """A `torch.nn.Conv2d` whose weight is kept as int8."""


class Int8WeightLinear(_Int8Weight, nn.Linear):
    """A `torch.nn.Linear` whose weight is kept as int8."""


_CLASSES = {nn.Conv2d: Int8WeightConv2d, nn.Linear: Int8WeightLinear}


def quantize_weights(model: Model, *, keep: Collection[str] = ()) -> Model | nn.Module:
    """A copy of `model` that keeps the weights of its convolutions and linear layers as int8.

    They are symmetric per output channel and restored at each call: memory is saved, and no time. The weights
    cannot be trained any more.

    Args:
        model: `torch.nn.Conv2d` and `torch.nn.Linear` in it are replaced; subclasses, which may compute
            something else, and weights that are computed from others are copied as they are.
        keep: names of layers that keep their float weights.

    Raises ValueError for a name in `keep` that no such layer has, and for weights that are not finite.
    """
    layers = {name: module for name, module in model.named_modules() if type(module) in _CLASSES}
    kept = kept_layers(list(layers), True, True, keep)
    memo = {
        id(layer): _CLASSES[type(layer)](layer)
        for name, layer in layers.items()
        if name not in kept and why_not_int8(layer) is None
    }
    return copy.deepcopy(model, memo)
