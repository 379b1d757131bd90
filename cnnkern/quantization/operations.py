"""What the operations in a traced model are to quantization, and the arguments that they were called with."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from enum import Enum
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from .conversion import form_of, has_int8_form
from .integer import IntegerMaxPool

# Activations differ from their zero point by at most 255 and weights are at most 128 in magnitude: longer
# sums could leave int32.
LONGEST_SUM = (2**31 - 1) // (255 * 128)


class Kind(Enum):
    """What an operation is to integers on a grid."""

    LAYER = "layer"  # a convolution or a linear layer
    RELU = "relu"
    ADD = "add"
    AVERAGE = "average"
    MAX_POOL = "max pool"
    CONCATENATION = "concatenation"  # of tensors on the same grid
    RESHAPE = "reshape"  # moves values, or selects some
    QUERY = "query"  # asks for a shape
    OTHER = "other"  # has no integer form


MODULES = {
    nn.ReLU: Kind.RELU,
    nn.ReLU6: Kind.RELU,
    nn.MaxPool2d: Kind.MAX_POOL,
    IntegerMaxPool: Kind.MAX_POOL,
    nn.AvgPool2d: Kind.AVERAGE,
    nn.AdaptiveAvgPool2d: Kind.AVERAGE,
    nn.Flatten: Kind.RESHAPE,
    nn.Unflatten: Kind.RESHAPE,
    nn.Identity: Kind.RESHAPE,
    nn.Dropout: Kind.RESHAPE,
    nn.Dropout2d: Kind.RESHAPE,
    nn.PixelShuffle: Kind.RESHAPE,
}
FUNCTIONS: dict[Callable[..., Any], Kind] = {
    F.relu: Kind.RELU,
    F.relu6: Kind.RELU,
    torch.relu: Kind.RELU,
    torch.relu_: Kind.RELU,
    operator.add: Kind.ADD,
    operator.iadd: Kind.ADD,
    torch.add: Kind.ADD,
    F.max_pool2d: Kind.MAX_POOL,
    torch.max_pool2d: Kind.MAX_POOL,
    F.avg_pool2d: Kind.AVERAGE,
    F.adaptive_avg_pool2d: Kind.AVERAGE,
    torch.mean: Kind.AVERAGE,
    torch.cat: Kind.CONCATENATION,
    torch.concat: Kind.CONCATENATION,
    torch.concatenate: Kind.CONCATENATION,
    torch.flatten: Kind.RESHAPE,
    torch.reshape: Kind.RESHAPE,
    torch.permute: Kind.RESHAPE,
    torch.transpose: Kind.RESHAPE,
    torch.squeeze: Kind.RESHAPE,
    torch.unsqueeze: Kind.RESHAPE,
    F.dropout: Kind.RESHAPE,  # traced in eval mode, where it does nothing
    getattr: Kind.QUERY,
}
METHODS = {
    **dict.fromkeys(("relu", "relu_"), Kind.RELU),
    **dict.fromkeys(("add", "add_"), Kind.ADD),
    "mean": Kind.AVERAGE,
    **dict.fromkeys(
        ("flatten", "reshape", "view", "permute", "transpose", "squeeze", "unsqueeze", "contiguous"),
        Kind.RESHAPE,
    ),
    **dict.fromkeys(("size", "dim"), Kind.QUERY),
}


def kind_of(node: fx.Node, modules: dict[str, nn.Module]) -> Kind:
    """What a node does; OTHER also for what is known only with other arguments."""
    if node.op == "call_module":
        module = modules[node.target]
        kind = Kind.LAYER if has_int8_form(module) else MODULES.get(type(module), Kind.OTHER)
        if len(node.args) != 1 or node.kwargs:
            return Kind.OTHER
    elif node.op == "call_function":
        kind = FUNCTIONS.get(node.target, Kind.OTHER)
    elif node.op == "call_method":
        kind = METHODS.get(node.target, Kind.OTHER)
    else:
        return Kind.OTHER
    fits = _FITS.get(kind)
    return kind if fits is None or fits(node, modules) else Kind.OTHER


def data_inputs(node: fx.Node, kind: Kind) -> list[fx.Node]:
    """The nodes whose tensors an operation computes with."""
    if kind is Kind.CONCATENATION:
        return list(_concatenated(node))
    if kind is Kind.ADD:
        return [node.args[0], node.args[1]]
    return [node.args[0]]


def why_not_int8(layer: nn.Module) -> str | None:
    """What keeps a convolution or a linear layer from being computed with int8, if anything does."""
    weights = [layer._parameters.get(name) for name in form_of(layer).weights]
    hooked = any(hooks for name, hooks in vars(layer).items() if name in _HOOKS)
    if hooked or any(weight is None for weight in weights):
        return "its weight is computed from others, or it has hooks"
    for weight in weights:
        if weight.dtype != torch.float32:
            return f"its weight is {weight.dtype}"
        if weight[0].numel() == 0:
            return "it has no columns"
        if weight[0].numel() > LONGEST_SUM:
            return f"a sum of {weight[0].numel()} products could leave int32, whose bound is {LONGEST_SUM}"
    return None


_HOOKS = {"_forward_hooks", "_forward_pre_hooks"}


def max_pool_of(node: fx.Node, modules: dict[str, nn.Module]) -> IntegerMaxPool:
    """The pooling that a MAX_POOL node does, on integers."""
    arguments = _max_pool_arguments(node, modules)
    stride = arguments["stride"]
    kernel = _pair(arguments["kernel_size"])
    return IntegerMaxPool(
        kernel,
        kernel if stride is None or stride == [] else _pair(stride),
        _pair(arguments["padding"]),
        _pair(arguments["dilation"]),
        ceil_mode=arguments["ceil_mode"],
    )


def average_of(node: fx.Node, modules: dict[str, nn.Module]) -> nn.Module:
    """A module that does to float tensors what an AVERAGE node does."""
    if node.op == "call_module":
        return modules[node.target]
    function = torch.mean if node.op == "call_method" else node.target
    return Average(function, node.args[1:], dict(node.kwargs))


def ceiling_of(node: fx.Node, modules: dict[str, nn.Module]) -> float | None:
    """The 6 of a ReLU6, None for a ReLU."""
    is_six = (
        node.target is F.relu6
        if node.op == "call_function"
        else (node.op == "call_module" and type(modules[node.target]) is nn.ReLU6)
    )
    return 6.0 if is_six else None


def is_in_place(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether a node overwrites its first argument."""
    if node.op == "call_module":
        return getattr(modules[node.target], "inplace", False)
    if node.op == "call_method":
        return node.target.endswith("_") and not node.target.endswith("__")
    if node.op != "call_function":
        return False
    name = getattr(node.target, "__name__", "")
    of_operator = getattr(node.target, "__module__", "") == "_operator" and name.startswith("i")
    return of_operator or name in ("setitem", "relu_") or bool(node.kwargs.get("inplace"))


class Average(nn.Module):
    """A function of a tensor with the other arguments given."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.function, self.args, self.kwargs = function, args, kwargs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x, *self.args, **self.kwargs)

    def extra_repr(self) -> str:
        return f"{self.function.__name__}, {self.args}, {self.kwargs}"


def _max_pool(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> None:
    """The arguments of max pooling, as torch's function takes them."""


def _dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> bool:
    """Whether a call of the function drops anything."""
    return training


def _max_pool_arguments(node: fx.Node, modules: dict[str, nn.Module]) -> dict[str, Any]:
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
    if node.op == "call_module":
        return {name: getattr(modules[node.target], name) for name in names}
    bound = inspect.signature(_max_pool).bind(*node.args, **node.kwargs)
    bound.apply_defaults()
    return bound.arguments


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return (value[0], value[0]) if len(value) == 1 else (value[0], value[1])


def _concatenated(node: fx.Node) -> Any:
    return node.args[0] if node.args else node.kwargs.get("tensors", ())


def _first_is_only_node(node: fx.Node, _: Any) -> bool:
    """Whether the first argument is computed, and no other is."""
    return bool(node.args) and node.all_input_nodes == [node.args[0]]


def _is_plain_average(node: fx.Node, modules: Any) -> bool:
    if not _first_is_only_node(node, modules) or "dtype" in node.kwargs:
        return False
    is_mean = node.target in ("mean", torch.mean)
    return not is_mean or len(node.args) > 1 or "dim" in node.kwargs


_FITS: dict[Kind, Callable[[fx.Node, dict[str, nn.Module]], bool]] = {
    Kind.RELU: _first_is_only_node,
    Kind.AVERAGE: _is_plain_average,
    Kind.MAX_POOL: lambda node, modules: (
        _first_is_only_node(node, modules) and not _max_pool_arguments(node, modules)["return_indices"]
    ),
    Kind.ADD: lambda node, _: (
        len(node.args) == 2 and not node.kwargs and all(isinstance(each, fx.Node) for each in node.args)
    ),
    Kind.CONCATENATION: lambda node, _: all(isinstance(each, fx.Node) for each in _concatenated(node)),
    Kind.RESHAPE: lambda node, _: (
        bool(node.args)
        and isinstance(node.args[0], fx.Node)
        and (node.target is not F.dropout or _dropout(*node.args, **node.kwargs) is False)
    ),
    Kind.QUERY: lambda node, _: node.target is not getattr or node.args[1] == "shape",
}
