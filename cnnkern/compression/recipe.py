"""The structure of a model as JSON: which modules are of which layer, built with which arguments.

Only the layers in LAYERS are written and built, each by its constructor alone, so that a recipe is data and
never code. Everything else of a model is the user's own constructor's.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cnnkern.compression.rewriting import names_of, replace
from cnnkern.nn import (
    ColumnSparseConv2d,
    ConvolutionChain,
    CPConv2d,
    Im2colConv2d,
    Int8ColumnSparseConv2d,
    Int8Conv2d,
    Int8CPConv2d,
    Int8Linear,
    PerforatedConv2d,
)
from cnnkern.nn.column_sparse_conv2d import SelectChannels
from cnnkern.nn.convolution import arguments_of
from cnnkern.quantization.integer import IntegerMaxPool

OURS = (
    CPConv2d,
    ColumnSparseConv2d,
    Im2colConv2d,
    Int8CPConv2d,
    Int8ColumnSparseConv2d,
    Int8Conv2d,
    Int8Linear,
    PerforatedConv2d,
)
DTYPES = {"uint8": torch.uint8, "int8": torch.int8}  # that are arguments
LAYERS: dict[str, type[nn.Module]] = {
    kind.__name__: kind
    for kind in (*OURS, ConvolutionChain, SelectChannels, nn.Conv2d, nn.Linear, nn.Identity, IntegerMaxPool)
}
# what a layer may take the place of, besides another layer: a batch norm that was folded, a ReLU that the
# layer before it does, a pooling
REPLACEABLE = (*LAYERS.values(), nn.BatchNorm1d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d)
# what a layer must have in common with the one that it takes the place of, where both have it
GEOMETRY = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
    "padding_mode",
    "in_features",
    "out_features",
    "return_indices",
    "ceil_mode",
)

Modules = dict[str, dict[str, Any]]


class Unfit(ValueError):
    """A recipe, or a model that a recipe does not fit."""


def describe(model: nn.Module) -> Modules:
    """By name: {"layer": type, "arguments": {...}}, or {"same_as": name} for a module that has several.

    An argument that is a tensor becomes {"tensor": name}, its name in the layer's own state, and a dtype
    {"dtype": name}.

    Raises:
        ValueError: a layer that cannot be described yet.
    """
    modules: Modules = {}
    for module, (first, *others) in names_of(model).items():
        if LAYERS.get(type(module).__name__) is not type(module):
            continue
        try:
            arguments = {name: _encoded(name, value) for name, value in _arguments(module).items()}
        except ValueError as error:
            raise ValueError(f"model: layer {first!r}: {error}") from None
        modules[first] = {"layer": type(module).__name__, "arguments": arguments}
        modules |= {name: {"same_as": first} for name in others}
    return modules


def rebuild(model: nn.Module, modules: Modules, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The model, changed in place, with the layers of a recipe; new ones are on the meta device.

    `tensors` are those of the file, where arguments that are tensors are found.

    Raises:
        Unfit: what is not a recipe, and a layer that is not for the place it has in the model.
    """
    built: dict[str, nn.Module] = {}
    replaced: list[tuple[str, nn.Module, nn.Module]] = []
    for name, entry in sorted(modules.items(), key=_depth):
        present = _at(model, name)
        if "same_as" in entry:
            if entry["same_as"] not in built:
                raise Unfit(f"layer {name!r}: expected another layer's name, got {entry['same_as']!r}")
            layer = built[entry["same_as"]]
        elif present is not None and present not in built.values() and _is_already(present, entry):
            layer = present
        else:
            layer = _build(name, entry, tensors)
        built[name] = layer
        if layer is not present:
            model = _put(model, name, layer)
            if present is not None:
                replaced.append((name, present, layer))
    for name, present, layer in replaced:
        _check_place(name, present, layer)
        layer.train(present.training)
        if not any(parameter.requires_grad for parameter in present.parameters()):
            layer.requires_grad_(False)
    here = set(model.modules())
    return replace(model, {old: layer for _, old, layer in replaced if old not in here})


def check_layers(model: nn.Module) -> None:
    """Raises Unfit for a layer of ours whose tensors are not what its constructor accepts."""
    for name, module in model.named_modules():
        if type(module) in OURS:
            _construct(name, type(module), module.constructor_arguments())


def check_recipe(modules: Any) -> None:
    """Raises Unfit for anything that `describe` does not return."""
    if not isinstance(modules, dict):
        raise Unfit(f"expected an object of layers by name, got {modules!r}")
    for name, entry in modules.items():
        if isinstance(entry, dict) and set(entry) == {"same_as"} and isinstance(entry["same_as"], str):
            continue
        if not isinstance(entry, dict) or set(entry) != {"layer", "arguments"}:
            raise Unfit(f"layer {name!r}: expected layer and arguments, got {entry!r}")
        if entry["layer"] not in LAYERS:
            raise Unfit(f"layer {name!r}: expected one of {', '.join(LAYERS)}, got {entry['layer']!r}")
        known = _parameters(LAYERS[entry["layer"]])
        if not isinstance(entry["arguments"], dict) or not known.issuperset(entry["arguments"]):
            raise Unfit(
                f"layer {name!r}: expected arguments among {', '.join(sorted(known))}, "
                f"got {entry['arguments']!r}"
            )


def _arguments(module: nn.Module) -> dict[str, Any]:
    if isinstance(module, nn.Conv2d):
        return arguments_of(module)
    if isinstance(module, nn.Linear):
        features = {name: getattr(module, name) for name in ("in_features", "out_features")}
        return {**features, "bias": module.bias is not None}
    if isinstance(module, SelectChannels):
        return {"index": module.index}
    if isinstance(module, ConvolutionChain | nn.Identity):
        return {}
    return module.constructor_arguments()


def _parameters(kind: type[nn.Module]) -> set[str]:
    """The names of the constructor's arguments that a recipe may give."""
    if kind in (ConvolutionChain, nn.Identity):
        return set()
    return set(inspect.signature(kind).parameters) - {"device", "dtype"}


def _encoded(name: str, value: Any) -> Any:
    if isinstance(value, Tensor):
        return {"tensor": name}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    return list(value) if isinstance(value, tuple) else value


def _decoded(layer: str, value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return tuple(value)
    if not isinstance(value, dict):
        return value
    if set(value) == {"dtype"} and value["dtype"] in DTYPES:
        return DTYPES[value["dtype"]]
    name = value.get("tensor")
    whole = f"{layer}.{name}" if layer else name
    if whole not in tensors:
        raise Unfit(f"layer {layer!r}: expected a tensor {whole!r} in the file, got none")
    return tensors[whole]


def _at(model: nn.Module, name: str) -> nn.Module | None:
    try:
        return model.get_submodule(name)
    except AttributeError:
        return None


def _depth(item: tuple[str, Any]) -> tuple[bool, int]:
    """Parents come before their children, and layers before other names of them."""
    name, entry = item
    return "same_as" in entry, name.count(".") + bool(name)


def _is_already(present: nn.Module, entry: dict[str, Any]) -> bool:
    """Whether the model has this layer here; those with tensors among their arguments are built anew."""
    if type(present) is not LAYERS[entry["layer"]] or any(map(_is_tensor, entry["arguments"].values())):
        return False
    return {name: _encoded(name, value) for name, value in _arguments(present).items()} == entry["arguments"]


def _is_tensor(value: Any) -> bool:
    return isinstance(value, dict)


def _build(name: str, entry: dict[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
    arguments = {key: _decoded(name, value, tensors) for key, value in entry["arguments"].items()}
    return _construct(name, LAYERS[entry["layer"]], arguments)


def _construct(name: str, kind: type[nn.Module], arguments: dict[str, Any]) -> nn.Module:
    try:
        with torch.device("meta"):
            return kind(**arguments)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise Unfit(f"layer {name!r}: {error}") from None


def _put(model: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    """The model with `layer` under this name alone."""
    if not name:
        return layer
    parent_name, _, child = name.rpartition(".")
    parent = _at(model, parent_name)
    if parent is None or (child not in parent._modules and type(parent) is not ConvolutionChain):
        raise Unfit(f"layer {name!r}: expected a module of this name in the model, got none")
    parent._modules[child] = layer
    return model


def _check_place(name: str, present: nn.Module, layer: nn.Module) -> None:
    """Raises Unfit unless `layer` may take the place that `present` had."""
    kind = type(layer).__name__
    fits = type(present) in REPLACEABLE and not (type(layer) is ConvolutionChain and not len(layer))
    fits = fits and isinstance(present, nn.MaxPool2d) == isinstance(layer, nn.MaxPool2d)
    if not fits or (isinstance(present, nn.ReLU) and type(layer) is not nn.Identity):
        raise Unfit(f"layer {name!r}: {kind} in the file cannot be {type(present).__name__} in the model")
    for attribute in GEOMETRY:
        if hasattr(present, attribute) and hasattr(layer, attribute):
            there, here = getattr(present, attribute), getattr(layer, attribute)
            if there != here:
                raise Unfit(f"layer {name!r}: {attribute} is {here} in the file and {there} in the model")
