"""Contenders that were shown to be right; `cnnkern.compression.timing` lets them take turns."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cnnkern.compression.timing import BURST_SECONDS, Timing, interleave, thread_count

__all__ = [
    "BURST_SECONDS",
    "Call",
    "Contender",
    "Timing",
    "WrongResult",
    "check",
    "end_to_end",
    "interleave",
    "thread_count",
]


class Contender(Protocol):
    """Something that can be asked for its result, and for the seconds that calls in a row take."""

    name: str

    def output(self) -> Tensor: ...

    def burst(self, calls: int) -> float: ...


@dataclass(frozen=True)
class Call:
    """A contender in this process; `run` allocates its output, or its several outputs, on every call."""

    name: str
    run: Callable[[], Tensor | tuple[Tensor, ...]]

    def output(self) -> Tensor:
        result = self.run()
        return result if isinstance(result, Tensor) else end_to_end(result)

    def burst(self, calls: int) -> float:
        run = self.run
        start = time.perf_counter()
        for _ in range(calls):
            run()
        return time.perf_counter() - start


def end_to_end(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


class WrongResult(AssertionError):
    """A contender computes something else than the reference: its time means nothing."""


def check(contender: Contender, expected: Tensor, bound: Tensor) -> None:
    """Raise WrongResult unless every element of the output is within `bound` of `expected`."""
    output = contender.output()
    if output.shape != expected.shape:
        raise WrongResult(f"{contender.name}: shape {tuple(output.shape)}, expected {tuple(expected.shape)}")
    error = (output - expected).abs_()
    if not (error <= bound).all():  # NaN fails too
        worst = (error / bound).max().item()
        raise WrongResult(f"{contender.name}: wrong by up to {worst:.3g} times the rounding that is allowed")
