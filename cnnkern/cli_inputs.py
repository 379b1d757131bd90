"""What the command line is given: a model by the name of its factory, weights and data by files."""

import argparse
import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

import cnnkern
from cnnkern.compression.running import call, in_format, inference, model_in_format

CALIBRATION = 32  # inputs of the data that layers are fitted to; the rest measures the loss


def model_and_example(options: argparse.Namespace) -> tuple[nn.Module, Tensor]:
    """The model in eval mode with its weights, and random inputs; on the device and in the memory format that
    were asked for."""
    if options.threads:
        torch.set_num_threads(options.threads)
    model = _with_weights(_made(options.model), options.weights).eval().to(options.device)
    torch.manual_seed(0)
    example = torch.randn(options.input_shape).to(options.device)
    if options.channels_last:
        model = model_in_format(model, torch.channels_last)
        example = in_format(example, torch.channels_last)
    try:
        with inference(model):
            call(model, example)
    except Exception as error:  # whatever the user's own code raises
        shape = ",".join(map(str, options.input_shape))
        raise ValueError(
            f"model: {options.model} failed on --input-shape {shape} with {_said(error)}"
        ) from error
    return model, example


def _made(text: str) -> nn.Module:
    module, _, name = text.partition(":")
    if not module or not name:
        raise ValueError(f"model: expected PACKAGE.MODULE:FACTORY, got {text!r}")
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` has it
    try:
        factory = importlib.import_module(module)
    except ImportError:
        raise
    except Exception as error:  # whatever the user's own code raises
        raise ValueError(f"model: importing {module} failed with {_said(error)}") from error
    for part in name.split("."):
        if not hasattr(factory, part):
            raise ValueError(f"model: expected {part!r} in {module}, got none")
        factory = getattr(factory, part)
    if not callable(factory):
        raise TypeError(f"model: expected a function, got {type(factory).__name__} {text!r}")
    try:
        model = factory()
    except Exception as error:  # whatever the user's own code raises
        raise ValueError(f"model: {text} failed with {_said(error)}") from error
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected {text} to return a torch.nn.Module, got {type(model).__name__}")
    return model


def _with_weights(model: nn.Module, path: Path | None) -> nn.Module:
    if path is None:
        return model
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                saved_by_us = "cnnkern" in (file.metadata() or {})
        except SafetensorError as error:
            raise ValueError(f"{path}: expected a safetensors file, got one that is not: {error}") from None
        if saved_by_us:
            return cnnkern.load(path, model)
    state = _tensors(path)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path}: {error}") from error
    return model


def calibration_and_loss(
    options: argparse.Namespace, model: nn.Module
) -> tuple[list[Tensor] | None, Callable[[nn.Module], float] | None]:
    """Calibration and evaluation; None for what `compress` has to do by itself."""
    if options.data is None:
        return None, None
    data = _tensors(options.data)
    inputs, labels = data.get("inputs"), data.get("labels")
    wanted = torch.Size(options.input_shape[1:]), torch.float32
    if inputs is None or not len(inputs) or (inputs.shape[1:], inputs.dtype) != wanted:
        got = "none" if inputs is None else f"{inputs.dtype} {tuple(inputs.shape)}"
        raise ValueError(
            f"{options.data}: expected 'inputs' of torch.float32 like --input-shape, any number of them, "
            f"got {got}"
        )
    if options.channels_last:
        inputs = in_format(inputs, torch.channels_last)
    labels = None if labels is None else labels.to(options.device)
    inputs = inputs.to(options.device)
    calibration = [inputs[:CALIBRATION]]
    rest = inputs[CALIBRATION:] if len(inputs) > CALIBRATION else inputs
    if labels is None:
        return calibration, cnnkern.compression.Divergence(model, rest.split(CALIBRATION))
    if labels.shape != inputs.shape[:1]:
        raise ValueError(f"{options.data}: expected one label for each input, got {tuple(labels.shape)}")
    batches = list(zip(rest.split(CALIBRATION), labels[-len(rest) :].split(CALIBRATION), strict=True))

    def evaluate(model: nn.Module) -> float:
        sums = [F.cross_entropy(call(model, x), y.long(), reduction="sum").item() for x, y in batches]
        return sum(sums) / len(rest)

    try:
        with inference(model):
            evaluate(model)
    except Exception as error:
        raise ValueError(
            f"{options.data}: expected 'labels' that are classes of the model's outputs (N, classes), got "
            f"{labels.dtype} up to {labels.max().item()}: {_said(error)}"
        ) from error
    return calibration, evaluate


def _tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name; no code in it is run."""
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except Exception as error:  # whatever rubbish makes of an unpickler
        raise ValueError(
            f"{path}: expected tensors by name, such as torch.save(model.state_dict(), ...) writes, got a "
            f"file that is not whole, or has other things in it ({type(error).__name__})"
        ) from error
    if not isinstance(state, Mapping):
        raise ValueError(f"{path}: expected tensors by name, got {type(state).__name__}")
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"{path}: expected tensors by name, such as a state dict alone, got {type(value).__name__} "
                f"{name!r}"
            )
    return dict(state)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
