"""The place where the front of the package says what an int8 layer is.

Quantization knows nothing of kernels, and so not which layers compute with int8: the front of the package,
which knows both sides, says it with `convert_with` when it is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .affine import Affine

Int8Layer = Callable[..., nn.Module]

_layers: dict[type[nn.Module], Int8Layer] = {}


def convert_with(layers: dict[type[nn.Module], Int8Layer]) -> None:
    """Make int8 layers of `torch.nn.Conv2d` and `torch.nn.Linear` with `layers[type](layer, **numbers)`.

    The numbers are x_scale, x_zero_point, x_dtype, out_scale (None for float32), out_zero_point, activation
    (None or "relu") and weight_scale (K). The weight's integers are those nearest to weight / weight_scale.
    """
    _layers.update(layers)


def int8_layer(
    layer: nn.Module, weight_scale: Tensor, input: Affine, output: Affine | None, relu: bool
) -> nn.Module:
    """The int8 layer of a float one."""
    numbers: dict[str, Any] = {"x_scale": input.scale, "x_zero_point": input.zero_point}
    if output is not None:
        numbers |= {"out_scale": output.scale, "out_zero_point": output.zero_point}
    with torch.no_grad():
        return _layers[type(layer)](
            layer,
            **numbers,
            x_dtype=input.dtype,
            weight_scale=weight_scale,
            activation="relu" if relu else None,
        )
