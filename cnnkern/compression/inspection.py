"""Which convolutions of a model can be replaced, what they get, and why the others are left alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from cnnkern.compression.cost import ConvolutionCost
from cnnkern.compression.rewriting import names_of
from cnnkern.compression.running import call, inference
from cnnkern.nn.convolution import Convolution2d
from cnnkern.pruning.layers import has_weight

FUNCTIONAL = "torch.nn.functional"
CONVOLUTIONS = {
    torch.conv1d,
    torch.conv2d,
    torch.conv3d,
    torch.conv_transpose1d,
    torch.conv_transpose2d,
    torch.conv_transpose3d,
    torch.convolution,
}


@dataclass(frozen=True, eq=False)
class Place:
    """A convolution that may be replaced, and its input (N, C, H, W) in a run of the model on the example."""

    name: str
    conv: nn.Conv2d
    x: Tensor

    @property
    def cost(self) -> ConvolutionCost:
        with torch.no_grad():
            output_size = tuple(self.conv(self.x).shape[-2:])
        conv, size = self.conv, tuple(self.x.shape[-2:])
        return ConvolutionCost(
            len(self.x), conv.in_channels, conv.out_channels, conv.kernel_size, size, output_size, conv.groups
        )


@dataclass
class Inspection:
    """Places in the order of their calls, and {name: why it is left alone}."""

    places: list[Place] = field(default_factory=list)
    left_alone: dict[str, str] = field(default_factory=dict)


def inspect_model(model: nn.Module, example: Any) -> Inspection:
    """Run the model once on the example, and look at all its convolutions."""
    seen: dict[nn.Conv2d, list[Any]] = {}
    names = {module: found[0] for module, found in names_of(model).items()}
    convs = [module for module in names if isinstance(module, nn.Conv2d)]

    def note(module: nn.Conv2d, args: tuple, kwargs: dict) -> None:
        value = args[0] if len(args) == 1 and not kwargs else None
        seen.setdefault(module, []).append(value.clone() if isinstance(value, Tensor) else value)

    hooks = [conv.register_forward_pre_hook(note, with_kwargs=True) for conv in convs]
    functional = _FunctionalConvolutions(model)
    try:
        with inference(model), functional:
            call(model, example)
    finally:
        functional.remove()
        for hook in hooks:
            hook.remove()
    inspection = Inspection()
    for module, name in names.items():
        if isinstance(module, _ConvNd | Convolution2d) and not isinstance(module, nn.Conv2d):
            inspection.left_alone[name] = f"{type(module).__name__}, and only torch.nn.Conv2d is replaced"
    owners = _owners(model)
    some_trained = any(parameter.requires_grad for parameter in model.parameters())
    for conv in sorted(convs, key=lambda conv: list(seen).index(conv) if conv in seen else len(seen)):
        reason = _reason(conv, seen.get(conv, []), owners, some_trained)
        if reason is None:
            inspection.places.append(Place(names[conv], conv, seen[conv][0]))
        else:
            inspection.left_alone[names[conv]] = reason
    if functional.count:
        inspection.left_alone[FUNCTIONAL] = f"{functional.count} convolutions that belong to no layer"
    return inspection


class Caught(BaseException):
    """Ends a model's run; not an Exception, which the model might handle."""


def activations(
    model: nn.Module, layer: nn.Module, batches: Sequence[Any]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Input and output of a layer that is called once, for each batch that the model is run on, on the CPU.

    A run ends where the layer has been called. Where the data decide what is called there may be fewer pairs.
    Calls with nothing in them do not count.
    """
    caught: list[tuple[Tensor, Tensor]] = []

    def catch(_: nn.Module, args: tuple, y: Tensor) -> None:
        if y.numel():
            caught.append(tuple(tensor.to("cpu", copy=True) for tensor in (args[0], y)))
            raise Caught

    hook = layer.register_forward_hook(catch)
    try:
        with inference(model):
            for batch in batches:
                with suppress(Caught):
                    call(model, batch)
    finally:
        hook.remove()
    yield from caught


def _reason(conv: nn.Conv2d, inputs: list[Any], owners: dict[int, int], some_trained: bool) -> str | None:
    """Why a convolution is left alone; None for one that may be replaced."""
    if type(conv) is not nn.Conv2d:
        return f"{type(conv).__name__}, which may compute something else than torch.nn.Conv2d"
    if not has_weight(conv):
        return "its weight is computed from others"
    if any(owners[id(parameter)] > 1 for parameter in conv.parameters()):
        return "its weight belongs to another layer too"
    if len(inputs) != 1:
        return f"called {len(inputs)} times in a run" if inputs else "not called in a run"
    if some_trained and not any(parameter.requires_grad for parameter in conv.parameters()):
        return "frozen, in a model of which other parts are trained"
    x = inputs[0]
    if not isinstance(x, Tensor) or x.dim() != 4 or not x.numel():
        return "it is not called with one batch of images (N, C, H, W) by position"
    if x.dtype is not torch.float32:
        return f"its input is {x.dtype}, and only torch.float32 has fast kernels"
    if conv._forward_hooks or conv._forward_pre_hooks:
        return "it has hooks, which would be lost"
    return None


def _owners(model: nn.Module) -> dict[int, int]:
    """In how many modules each parameter is, by its id."""
    counts: dict[int, int] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                counts[id(parameter)] = counts.get(id(parameter), 0) + 1
    return counts


class _FunctionalConvolutions(TorchFunctionMode):
    """Counts the convolutions that are computed outside of convolution layers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.count = self._inside = 0
        self._hooks = []
        for module in model.modules():
            if isinstance(module, _ConvNd):
                self._hooks.append(module.register_forward_pre_hook(self._enter))
                self._hooks.append(module.register_forward_hook(self._leave))

    def _enter(self, *_: Any) -> None:
        self._inside += 1

    def _leave(self, *_: Any) -> None:
        self._inside -= 1

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        if func in CONVOLUTIONS and not self._inside:
            self.count += 1
        return func(*args, **(kwargs or {}))
