"""`cnnkern.save` and `cnnkern.load`: a changed model in one safetensors file, without pickle.

The file holds the model's state by name, each tensor once, and in its metadata, under "cnnkern", the recipe:

    {"format": 1, "version": of cnnkern, "model": the class's name, for people,
     "modules": {name: {"layer": ..., "arguments": ...}},      see recipe.py
     "tied": {name: the name whose tensor it shares},
     "channels_last": [names of tensors in this memory format]}
"""

import copy
import json
import os
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from cnnkern import _C
from cnnkern.compression.files import written_whole
from cnnkern.compression.recipe import Unfit, check_layers, check_recipe, describe, rebuild
from cnnkern.compression.running import check_model, device_of
from cnnkern.modules import unwrapped

KEY = "cnnkern"
FORMAT = 1
SHOWN = 5  # names in an error

Model = TypeVar("Model", bound=nn.Module)
Path = str | os.PathLike


def save(model: nn.Module, path: Path) -> None:
    """Write a model's tensors and the structure of its layers to one safetensors file, whole or not at all.

    Args:
        model: any; its layers of `cnnkern` and its stock convolutions and linear layers are described in the
            file, the rest is for the constructor of the model. Modes and gradients are not kept.
        path: of the file; missing folders are made.

    Raises:
        TypeError: a model that is no `torch.nn.Module`, or with something else than tensors in its state.
        ValueError: a layer that is not complete, or tensors without values.
    """
    check_model(model)
    model = unwrapped(model)
    state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"model: expected tensors in its state, got {type(value).__name__} {name!r}")
        if value.is_meta or value.layout is not torch.strided:
            raise ValueError(f"model: expected dense tensors with values, got {name!r} without")
    tied = _tied(state)
    recipe = {
        "format": FORMAT,
        "version": _C.build_info()["version"],
        "model": type(model).__qualname__,
        "modules": describe(model),
        "tied": tied,
        "channels_last": [name for name, tensor in state.items() if _is_channels_last(tensor)],
    }
    # memory of its own for each, which the format asks for
    tensors = {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in state.items()
        if name not in tied
    }
    with written_whole(path) as temporary:
        save_file(tensors, temporary, metadata={KEY: json.dumps(recipe)})


def load(path: Path, model: Model) -> Model | nn.Module:
    """The model that `save` wrote, from one of the same class as its plain constructor makes it.

    Args:
        path: of the file.
        model: says what is around the layers, and on which device; it is not changed.

    Returns:
        A copy of `model` with the layers and the tensors of the file, in `model`'s modes.

    Raises:
        TypeError: a model that is no `torch.nn.Module`.
        OSError: a file that cannot be read.
        ValueError: a file that `save` did not write, or a newer version did; layers, names or shapes that do
            not fit the model. The message names them.

    Nothing of the file is run: the layers are of a fixed list, built by their constructors, which check what
    they are given.
    """
    check_model(model)
    recipe, tensors = _read(path, device_of(model, None))
    model = copy.deepcopy(unwrapped(model))
    try:
        model = rebuild(model, recipe["modules"], tensors)
        for name in recipe["channels_last"]:
            tensors[name] = tensors[name].contiguous(memory_format=torch.channels_last)
        for name, source in recipe["tied"].items():
            tensors[name] = tensors[source]
        _check_names(model.state_dict(), tensors)
        model.load_state_dict(tensors, assign=True)
        _tie(model, recipe["tied"])
        check_layers(model)
    except Unfit as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from None
    return model


def _read(path: Path, device: torch.device) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The checked recipe, and the tensors on the device."""
    name = os.fspath(path)
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            text = (file.metadata() or {}).get(KEY)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{name}: expected a safetensors file, got one that is not: {error}") from None
    if text is None:
        raise ValueError(f"{name}: expected a file that cnnkern.save wrote, got one without a recipe")
    try:
        recipe = json.loads(text)
        _check(recipe, tensors)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{name}: expected a recipe in JSON, got {error}") from None
    except Unfit as error:
        raise ValueError(f"{name}: {error}") from None
    return recipe, tensors


def _check(recipe: Any, tensors: Mapping[str, Tensor]) -> None:
    """Raises Unfit for anything that `save` does not write."""
    if not isinstance(recipe, dict) or recipe.get("format") != FORMAT:
        found = recipe.get("format") if isinstance(recipe, dict) else recipe
        version = recipe.get("version") if isinstance(recipe, dict) else None
        raise Unfit(f"expected a recipe of format {FORMAT}, got {found!r}, of cnnkern {version}")
    check_recipe(recipe.get("modules"))
    tied, channels_last = recipe.get("tied"), recipe.get("channels_last")
    if not isinstance(tied, dict) or not all(isinstance(s, str) and s in tensors for s in tied.values()):
        raise Unfit(f"expected tied names with tensors in the file, got {tied!r}")
    if tensors.keys() & tied.keys():
        raise Unfit(f"expected tied names without tensors of their own, got {tied!r}")
    if not isinstance(channels_last, list) or not all(
        isinstance(name, str) and name in tensors and tensors[name].dim() == 4
        for name in channels_last
        if name not in tied
    ):
        raise Unfit(f"expected channels_last names of tensors of four dimensions, got {channels_last!r}")
    recipe["channels_last"] = [name for name in channels_last if name not in tied]


def _check_names(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Raises Unfit unless the file has the model's names, with the same shapes and kinds of numbers."""
    complaints = [f"the file has no {name!r}" for name in expected if name not in tensors]
    complaints += [f"the model has no {name!r}" for name in tensors if name not in expected]
    for name in expected.keys() & tensors.keys():
        here, there = tensors[name], expected[name]
        if here.shape != there.shape:
            complaints.append(
                f"{name!r} is {tuple(here.shape)} in the file and {tuple(there.shape)} in the model"
            )
        elif here.dtype != there.dtype and not (here.is_floating_point() and there.is_floating_point()):
            complaints.append(f"{name!r} is {here.dtype} in the file and {there.dtype} in the model")
    if complaints:
        more = f", and {len(complaints) - SHOWN} more" if len(complaints) > SHOWN else ""
        raise Unfit(f"the file does not fit the model: {'; '.join(sorted(complaints)[:SHOWN])}{more}")


def _tied(state: Mapping[str, Tensor]) -> dict[str, str]:
    """The names whose tensor is, as a whole, that of an earlier name."""
    first: dict[tuple, str] = {}
    tied = {}
    for name, tensor in state.items():
        if tensor.numel():
            place = tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), tensor.device
            if first.setdefault(place, name) != name:
                tied[name] = first[place]
    return tied


def _tie(model: nn.Module, tied: Mapping[str, str]) -> None:
    """Make the names share the parameter or buffer itself."""
    for name, source in tied.items():
        owner, attribute = _owner(model, source)
        value = getattr(owner, attribute)
        owner, attribute = _owner(model, name)
        if getattr(owner, attribute) is not value:
            setattr(owner, attribute, value)


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    parent, _, attribute = name.rpartition(".")
    return model.get_submodule(parent), attribute


def _is_channels_last(tensor: Tensor) -> bool:
    return (
        tensor.dim() == 4
        and not tensor.is_contiguous()
        and tensor.is_contiguous(memory_format=torch.channels_last)
    )
