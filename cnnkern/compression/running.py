"""Running somebody's model: its arguments, its device, its leaves."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cnnkern.compression.cost import tensors
from cnnkern.compression.timing import Turn, clock_of, interleave
from cnnkern.modules import in_eval_mode


def call(model: nn.Module, example: Any) -> Any:
    """model(example), with a tuple or list as positional arguments and a mapping as keyword arguments."""
    if isinstance(example, Mapping):
        return model(**example)
    if isinstance(example, tuple | list):
        return model(*example)
    return model(example)


def device_of(model: nn.Module, example: Any) -> torch.device:
    """That of the first tensor among the example's and the model's; the CPU where there is none."""
    for tensor in (*tensors(example), *model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def on_cpu(module: nn.Module) -> nn.Module:
    """The module itself where it is on the CPU, else a copy that is."""
    there = all(tensor.device.type == "cpu" for tensor in (*module.parameters(), *module.buffers()))
    return module if there else copy.deepcopy(module).cpu()


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """The model in eval mode, without gradients; afterwards each module is in its old mode.

    Not `torch.inference_mode`: what a model keeps from a call would be of no use for training afterwards.
    """
    with in_eval_mode(model), torch.no_grad():
        yield


def leaves(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that do the work, those without children, by the first name of each.

    TorchScript's are not among them, whose calls nobody can watch.
    """
    return {
        name: module
        for name, module in model.named_modules()
        if next(module.children(), None) is None and not isinstance(module, torch.jit.ScriptModule)
    }


def in_format(value: Any, memory_format: torch.memory_format) -> Any:
    """A nest of tensors with those of four dimensions in this memory format."""
    if isinstance(value, Tensor):
        # not contiguous(), which keeps the strides of images of one channel
        return (
            torch.empty_like(value, memory_format=memory_format).copy_(value) if value.dim() == 4 else value
        )
    if isinstance(value, Mapping):
        return {key: in_format(item, memory_format) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return tuple(in_format(item, memory_format) for item in value)
    return value


def model_in_format(model: nn.Module, memory_format: torch.memory_format) -> nn.Module:
    """The model, changed in place: its tensors of four dimensions in this memory format.

    As `model.to(memory_format=...)`, which refuses models with tensors of five.
    """
    return model._apply(lambda tensor: in_format(tensor, memory_format))


def check_model(model: Any) -> None:
    """TypeError unless `model` is a module with layers that can be told apart."""
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")


def shape_of(value: Any) -> tuple[int, ...] | None:
    """The shape of the first tensor in a nest of them."""
    first: Tensor | None = next(tensors(value), None)
    return None if first is None else tuple(first.shape)


def timed_together(models: Sequence[nn.Module], example: Any, seconds: float) -> list[float]:
    """Seconds of a run of each model on the example, in turns."""
    turns: list[Callable[[], Any]] = [lambda model=model: call(model, example) for model in models]
    clock = clock_of(device_of(models[0], example))
    with inference(nn.ModuleList(models)):
        timings, _ = interleave([Turn(run, clock) for run in turns], seconds=seconds, min_rounds=5)
    return [timing.median for timing in timings]
