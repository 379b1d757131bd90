"""Timing of what computes the same thing in several ways, each in the memory layout that suits it best."""

import copy
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

import torch
from torch import Tensor, nn

from bench.timing import Call, Contender, interleave
from cnnkern import CPConv2d, reference
from cnnkern.compression.running import in_format

Name = TypeVar("Name", bound=Hashable)
MIN_ROUNDS = 5
WHOLE = "whole network"


@dataclass(frozen=True)
class Time:
    """One call, in milliseconds: the median over rounds and the median absolute deviation from it."""

    milliseconds: float
    deviation: float
    layout: str


@torch.inference_mode()
def best_times(
    modules: Mapping[Name, nn.Module],
    x: Tensor,
    seconds: float,
    rivals: Mapping[Name, Sequence[Contender]] = MappingProxyType({}),
) -> dict[Name, Time]:
    """The time of each module on ``x`` in its best layout, all interleaved for about ``seconds``.

    ``rivals`` take part as they are, one for each layout.
    """
    calls = {(name, call.name): call for name, module in modules.items() for call in _layouts(module, x)}
    calls |= {(name, call.name): call for name, found in rivals.items() for call in found}
    timings, _ = interleave(list(calls.values()), seconds=seconds, min_rounds=MIN_ROUNDS)
    best: dict[Name, Time] = {}
    for (name, layout), timing in zip(calls, timings, strict=True):
        time = Time(timing.median * 1e3, timing.deviation * 1e3, layout)
        if name not in best or time.milliseconds < best[name].milliseconds:
            best[name] = time
    return best


def network_times(
    dense: nn.Module,
    network: nn.Module,
    names: Sequence[str],
    x: Tensor,
    seconds: float,
    check: Callable[[nn.Module, Tensor], None],
) -> dict[str, dict[str, Time]]:
    """Times of the layers ``names`` of ``network`` on the maps that they get, and of the network on ``x``.

    Each is {"dense": that of ``dense``, "cnnkern": its own}, and for a layer "stock": its stock form; the
    network is under WHOLE. Before anything is timed, ``check(layer, maps)`` raises for a layer that is wrong.
    """
    maps = layer_inputs(network, list(names), x)
    layers = {name: network.get_submodule(name) for name in names}
    with torch.inference_mode():
        for name, layer in layers.items():
            check(layer, maps[name])
    times = {}
    for name, layer in layers.items():
        modules = {"dense": dense.get_submodule(name), "stock": layer.to_stock(), "cnnkern": layer}
        times[name] = best_times(modules, maps[name], seconds)
    return times | {WHOLE: best_times({"dense": dense, "cnnkern": network}, x, seconds)}


@torch.inference_mode()
def check_layer(layer: CPConv2d, x: Tensor) -> None:
    """Raises AssertionError if ``layer`` differs from its oracle on ``x`` by more than rounding explains."""
    factors = layer.factor_c, layer.factor_h, layer.factor_w, layer.factor_k
    geometry = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups")}
    for call in _layouts(layer, x):
        reference.assert_within_bound(call.output(), reference.cp_conv2d, x, *factors, layer.bias, **geometry)


@torch.inference_mode()
def layer_inputs(network: nn.Module, names: list[str], x: Tensor) -> dict[str, Tensor]:
    """What each submodule of ``names`` gets as its input when ``network`` computes ``x``."""
    inputs: dict[str, Tensor] = {}
    hooks = [
        network.get_submodule(name).register_forward_pre_hook(
            lambda module, arguments, name=name: inputs.__setitem__(name, arguments[0].clone())
        )
        for name in names
    ]
    try:
        network(x)
    finally:
        for hook in hooks:
            hook.remove()
    return inputs


def _layouts(module: nn.Module, x: Tensor) -> Iterator[Call]:
    """``module`` on contiguous and on channels_last maps, its 4-D weights in that format or left alone."""
    yield Call("contiguous", lambda: module(x))
    x_last = in_format(x, torch.channels_last)
    # A copy made in inference mode could not keep packed weights.
    with torch.inference_mode(False):
        moved = copy.deepcopy(module).to(memory_format=torch.channels_last)
    yield Call("channels_last", lambda: moved(x_last))
    if _is_stock_layer(module):
        yield Call("channels_last maps", lambda: module(x_last))


def _is_stock_layer(module: nn.Module) -> bool:
    """One convolution, or convolutions in a row; a network is moved to a layout as a whole."""
    return all(isinstance(part, nn.Conv2d | nn.Sequential) for part in module.modules())
