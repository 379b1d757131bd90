"""Putting modules in the places of others, wherever a model holds them."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn


def replace(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """The model, changed in place, with each value wherever its key was, plain lists and dicts of modules
    included; the value of the model itself, if it is a key."""
    for parent in list(model.modules()):
        for holder in parent.__dict__.values():  # the registered modules are in one of them
            items = enumerate(holder) if isinstance(holder, list) else ()
            for place, child in list(holder.items() if isinstance(holder, dict) else items):
                if isinstance(child, nn.Module) and child in replacements:
                    holder[place] = replacements[child]
    return replacements.get(model, model)


@contextmanager
def swapped(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> Iterator[nn.Module]:
    """`replace` for as long as the block lasts; the values are modules that the model does not hold yet."""
    changed = replace(model, replacements)
    try:
        yield changed
    finally:
        replace(changed, {new: old for old, new in replacements.items()})


def sharing(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """A copy of the model that shares its tensors, with each value in the place of its key."""
    memo: dict[int, object] = {id(old): new for old, new in replacements.items()}
    memo |= {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, memo)


def names_of(model: nn.Module) -> dict[nn.Module, list[str]]:
    """All names that each module has in the model, in the order of the model."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    return names
