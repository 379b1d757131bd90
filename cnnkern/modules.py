"""What is asked of any model: the one inside a wrapper, its convolutions by name, eval mode for a while,
whether its tensors are what they were."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parallel import DataParallel, DistributedDataParallel

# where it is kept, its name there, the parameter or buffer or None, its version counter
Sources = tuple[tuple[dict[str, Tensor | None], str, Tensor | None, int], ...]


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside `DistributedDataParallel`, `DataParallel` or `torch.compile`, or the model itself."""
    if isinstance(model, DistributedDataParallel | DataParallel):
        return unwrapped(model.module)
    # by its attribute, since importing what `torch.compile` returns takes seconds
    compiled = getattr(model, "_orig_mod", None)
    return unwrapped(compiled) if isinstance(compiled, nn.Module) else model


def convolutions(model: nn.Module, layers: Iterable[str] | None = None) -> dict[str, nn.Conv2d]:
    """The `torch.nn.Conv2d` that `layers` name ("features.3"), in that order, or all that the model has.

    Raises TypeError for a single string, and ValueError for a name that no convolution has, and if there is
    no convolution at all.
    """
    modules = dict(model.named_modules())
    if layers is None:
        layers = [name for name, module in modules.items() if isinstance(module, nn.Conv2d)]
    elif isinstance(layers, str):
        raise TypeError(f"layers: expected names of convolutions, got the string {layers!r}")
    found = {}
    for name in layers:
        conv = modules.get(name)
        if not isinstance(conv, nn.Conv2d) or isinstance(conv, LazyModuleMixin):
            kind = "nothing" if conv is None else type(conv).__name__
            raise ValueError(f"layers: expected names of torch.nn.Conv2d, got {name!r}, which is {kind}")
        found[name] = conv
    if not found:
        raise ValueError("layers: expected at least one torch.nn.Conv2d, got none")
    return found


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Batch norm keeps its statistics and dropout is off; afterwards each module is in its old mode."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def sources_of(kept: dict[str, Tensor | None], names: Sequence[str]) -> Sources:
    """Those of `names` among a module's parameters or buffers, as they are now; none of them was made in
    inference mode, which counts no versions."""
    tensors = [(name, kept[name]) for name in names]
    return tuple((kept, name, t, 0 if t is None else t._version) for name, t in tensors)


def are_current(sources: Sources) -> bool:
    """Whether they are still the same tensors, and nobody wrote to them."""
    for kept, name, tensor, version in sources:
        if kept.get(name) is not tensor or (tensor is not None and tensor._version != version):
            return False
    return True
