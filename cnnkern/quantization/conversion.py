"""The place where the front of the package says what has an int8 form, and what that is.

Quantization knows nothing of kernels, and so neither which layers compute with int8 nor our own float layers:
the front of the package, which knows both sides, says it with `convert_with` and `compute_with` when it is
imported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .affine import Affine

CP_FACTORS = ("factor_c", "factor_h", "factor_w", "factor_k")


class Int8Form(NamedTuple):
    """How a type of float layers is computed with int8.

    Attributes:
        make: the int8 layer of a float one, `make(layer, **numbers)`: x_scale, x_zero_point, x_dtype,
            out_scale (None for float32), out_zero_point, activation (None or "relu"), and of a layer with a
            weight weight_scale (K), to whose multiples the weight is rounded, of a CP layer inner_scale (R).
        apply: what the layer computes with another weight and bias, `apply(layer, x, weight, bias)`, in
            torch; a CP layer, what its last stage makes of the others' output with another factor.
        inner: of a CP layer, its first three stages with other factors, `inner(layer, x, c, h, w)`, in torch.
    """

    make: Callable[..., nn.Module]
    apply: Callable[[Any, Tensor, Tensor, Tensor | None], Tensor]
    inner: Callable[[Any, Tensor, Tensor, Tensor, Tensor], Tensor] | None = None

    @property
    def weights(self) -> tuple[str, ...]:
        """The names of the layer's parameters, the bias aside."""
        return ("weight",) if self.inner is None else CP_FACTORS


class Operations(NamedTuple):
    """What computes with the integers between int8 layers, with the arguments that `cnnkern.reference` has
    for int8_quantize, int8_add and int8_max_pool2d."""

    quantize: Callable[..., Tensor]
    add: Callable[..., Tensor]
    max_pool: Callable[..., Tensor]


_forms: dict[type[nn.Module], Int8Form] = {}
_operations: list[Operations] = []


def convert_with(forms: dict[type[nn.Module], Int8Form]) -> None:
    """Compute layers of these types, and no subclasses, with int8."""
    _forms.update(forms)


def compute_with(operations: Operations) -> None:
    """Compute what stands between int8 layers with these."""
    _operations[:] = [operations]


def operations() -> Operations:
    """What computes with the integers between int8 layers."""
    return _operations[0]


def has_int8_form(layer: nn.Module) -> bool:
    """Whether layers of this type can be computed with int8."""
    return type(layer) in _forms


def form_of(layer: nn.Module) -> Int8Form:
    """How a layer is."""
    return _forms[type(layer)]


def int8_layer(
    layer: nn.Module, input: Affine, output: Affine | None, relu: bool, **scales: Tensor
) -> nn.Module:
    """The int8 layer of a float one."""
    numbers: dict[str, Any] = {"x_scale": input.scale, "x_zero_point": input.zero_point}
    if output is not None:
        numbers |= {"out_scale": output.scale, "out_zero_point": output.zero_point}
    with torch.no_grad():
        return form_of(layer).make(
            layer, **numbers, **scales, x_dtype=input.dtype, activation="relu" if relu else None
        )
