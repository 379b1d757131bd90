"""A clock that is scripted: a layer takes what its arithmetic says."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

import cnnkern
from cnnkern.compression import bonds, candidates, compressor, planning, search
from cnnkern.compression.cost import flops
from cnnkern.compression.inspection import activations
from cnnkern.compression.running import call, leaves
from cnnkern.compression.timing import Timing


def arithmetic(model: nn.Module, example: Any) -> float:
    """Seconds at a GFLOP/s, four with int8, and a microsecond for each layer."""
    total = 0.0

    def count(module: nn.Module, args: tuple, output: Any) -> None:
        nonlocal total
        rate = 4e9 if isinstance(module, cnnkern.Int8Conv2d) else 1e9
        total += 1e-6 + flops(module, args, output) / rate

    hooks = [module.register_forward_hook(count) for module in leaves(model).values()]
    with torch.no_grad():
        call(model, example)
    for hook in hooks:
        hook.remove()
    return total


def script(patch: Callable[[Any, str, Any], None]) -> None:
    """Have `patch`, such as setattr, give compression clocks that show what the arithmetic costs."""

    def of_layers(turns: Sequence[Any], *, seconds: float) -> tuple[list[Timing], None]:
        modules = [(turn.run.__defaults__[0], turn.run.__closure__[0].cell_contents) for turn in turns]
        return [Timing(arithmetic(module, x), 0.0, 1) for module, x in modules], None

    def of_model(model: nn.Module, x: Any, *, seconds: float) -> SimpleNamespace:
        inspection = compressor.inspect_model(model, x)
        layers = [SimpleNamespace(name=p.name, seconds=arithmetic(p.conv, p.x)) for p in inspection.places]
        return SimpleNamespace(layers=layers, seconds=arithmetic(model, x))

    def in_place(
        contenders: Sequence[tuple[nn.Module, nn.Module, nn.Module]], x: Any, _: float
    ) -> list[float]:
        times = []
        for model, place, layer in contenders:
            ((inner, _),) = activations(model, place, [x])
            times.append(arithmetic(layer, inner))
        return times

    patch(candidates, "interleave", of_layers)
    patch(search, "times_in_place", in_place)
    patch(compressor, "profile", of_model)
    patch(compressor, "interleave", lambda *_, seconds: ([Timing(1.0, 0.0, 1)] * 2, None))
    patch(bonds, "times_between", lambda models, x, *_: [arithmetic(m, x) for m in models])
    for module in (compressor, planning):
        patch(module, "timed_together", lambda models, x, _: [arithmetic(m, x) for m in models])
