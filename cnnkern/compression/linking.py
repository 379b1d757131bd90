"""Int8 layers that hand integers on to each other, where nothing but ReLUs stands between them.

A layer between float32 ones writes real numbers, and the next one puts them on its grid: two passes over
memory that cost as much as the layers. Where all that read its output are int8 layers with one grid, it
writes the integers of that grid itself, the ReLU done. What stands between has nothing left to do: a ReLU of
uint8 changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx, nn

from cnnkern.folding import UntraceableError, trace
from cnnkern.nn import Int8Conv2d
from cnnkern.quantization.operations import Kind, ceiling_of, kind_of

Grid = tuple[float, int]  # scale, zero point


def link(model: nn.Module) -> nn.Module:
    """The model, changed in place: integers go from one int8 convolution to the next, where they can."""
    for layer, (scale, zero_point), rectified in _pairs(model):
        if layer.out_scale is None:
            layer.out_scale = torch.tensor(scale, dtype=torch.float64)
            layer.out_zero_point = torch.tensor(zero_point)
            layer.activation = "relu" if rectified else layer.activation
    return model


def unlink(model: nn.Module) -> bool:
    """Undo `link` in place, but for the ReLUs; whether there was anything to undo."""
    found = False
    for layer, grid, _ in _pairs(model):
        if layer.numbers()[2:] == grid:
            layer.out_scale, layer.out_zero_point, found = None, torch.tensor(0), True
    return found


def _pairs(model: nn.Module) -> Iterator[tuple[Int8Conv2d, Grid, bool]]:
    """Layers whose output only int8 layers with one grid read: the grid, and whether they read its ReLU.

    None in a model that `torch.fx` cannot trace.
    """
    if sum(isinstance(module, Int8Conv2d) for module in model.modules()) < 2:
        return
    try:
        traced = trace(model)
    except UntraceableError:
        return
    modules = dict(traced.named_modules())
    calls = [node for node in traced.graph.nodes if node.op == "call_module"]
    for node in calls:
        layer = modules[node.target]
        once = sum(modules[call.target] is layer for call in calls) == 1
        if type(layer) is Int8Conv2d and layer.x_dtype is torch.uint8 and once:
            readings = set(_readings(node, modules, layer.relu))
            if len(readings) == 1 and None not in readings:
                ((grid, rectified),) = readings
                yield layer, grid, rectified


def _readings(
    node: fx.Node, modules: dict[str, nn.Module], rectified: bool
) -> Iterator[tuple[Grid, bool] | None]:
    """What reads a value: the grid of an int8 layer, and whether through a ReLU; None for anything else."""
    if not node.users:
        yield None
    for user in node.users:
        kind = kind_of(user, modules)
        reader = modules[user.target] if user.op == "call_module" else None
        if type(reader) is Int8Conv2d and reader.x_dtype is torch.uint8:
            yield reader.numbers()[:2], rectified
        elif kind is Kind.RELU and ceiling_of(user, modules) is None:
            yield from _readings(user, modules, True)
        elif type(reader) is nn.Identity:
            yield from _readings(user, modules, rectified)
        else:
            yield None
