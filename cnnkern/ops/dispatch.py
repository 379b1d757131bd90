"""Calling the registered operations, and what of PyTorch is registered around each of them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cnnkern.ops.arguments import AUTOCAST_DTYPES, autocast_dtype

# Where no gradient is asked for, the autograd wrapper that Python registers costs more than a small
# convolution does (10 µs); this guard goes past it for 1 µs, and leaves every other dispatch key in place.
# Inference mode goes past it by itself.
_below_autograd = torch._C._AutoDispatchBelowAutograd


def run(operation: torch._ops.OpOverload, *arguments: Any) -> Tensor:
    """Call `operation`; past autograd, when no gradient is asked for and no compiler is tracing."""
    if torch.compiler.is_compiling() or (torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments)):
        return operation(*arguments)
    return run_without_gradient(operation, *arguments)


def run_checked(
    operation: torch._ops.OpOverload, check: Callable[..., object], checked: tuple[Any, ...], *rest: Any
) -> Tensor:
    """Call `operation(*checked, *rest)` as `run` does; where it refuses, `check(*checked)` says why.

    The operation itself checks in few words all that it relies on. To check in all words before every call
    would cost a third of what a small convolution does.
    """
    if torch.compiler.is_compiling():
        check(*checked)
        return operation(*checked, *rest)
    try:
        return run(operation, *checked, *rest)
    except (RuntimeError, ValueError, TypeError) as refusal:
        error = refusal
    check(*checked)
    raise error


def run_without_gradient(operation: torch._ops.OpOverload, *arguments: Any) -> Tensor:
    """Call `operation` past autograd: for callers who know that no gradient is asked for."""
    call = getattr(operation, "_op", operation)  # the Python frame around it costs half a microsecond
    if torch.is_inference_mode_enabled():
        return call(*arguments)
    with _below_autograd():
        return call(*arguments)


def register_without_gradient(name: str, instead: str) -> None:
    """Make a backward pass through `cnnkern::name` raise NotImplementedError with the advice `instead`."""

    def refuse(ctx: Any, *grads: Tensor) -> None:
        raise NotImplementedError(f"cnnkern.{name} has no gradient: {instead}")

    torch.library.register_autograd(f"cnnkern::{name}", refuse)


def register_autocast(name: str) -> None:
    """Under autocast the operation computes in `autocast_dtype`."""
    torch.library.register_autocast(f"cnnkern::{name}", "cpu", autocast_dtype("cpu"))
    operation = getattr(torch.ops.cnnkern, name).default

    def compute(*arguments: Any) -> Tensor:
        with torch.autocast("cuda", enabled=False):
            return operation(*(_cast(argument) for argument in arguments))

    _library.impl(name, compute, "AutocastCUDA")


def _cast(argument: Any) -> Any:
    if isinstance(argument, Tensor) and argument.is_cuda and argument.dtype in AUTOCAST_DTYPES:
        return argument.to(autocast_dtype("cuda"))
    return argument


# torch's own helper knows only a dtype that is the same on every call
_library = torch.library.Library("cnnkern", "IMPL")


Fake = Callable[..., Tensor]


def register_fake(name: str) -> Callable[[Fake], Fake]:
    """Decorator: the function is the fake (meta) kernel of `cnnkern::name`."""
    return torch.library.register_fake(f"cnnkern::{name}")
