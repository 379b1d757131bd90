"""Honest timing: contenders that were shown to be right, interleaved in one run, median and spread.

Contenders take turns in bursts of a few milliseconds, in an order that is shuffled every round, so that a
slow second of a shared machine hits all of them. The machine's ceiling is sampled in the same rounds.
"""

import gc
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Protocol

import torch
from torch import Tensor

BURST_SECONDS = 2e-3


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


@dataclass(frozen=True)
class Timing:
    """Seconds per call: the median over rounds, and the median absolute deviation from it."""

    median: float
    deviation: float
    rounds: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Timing":
        middle = median(samples)
        return cls(middle, median(abs(sample - middle) for sample in samples), len(samples))


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


def interleave(
    contenders: Sequence[Contender],
    *,
    seconds: float,
    min_rounds: int = 3,
    beside: Callable[[], float] | None = None,
) -> tuple[list[Timing], float | None]:
    """Time `contenders` in turns for about `seconds`, and at least `min_rounds` rounds.

    Returns their timings in order, and the median of `beside()`, which is sampled once a round.
    """
    calls = [_calls_per_burst(contender) for contender in contenders]
    samples: list[list[float]] = [[] for _ in contenders]
    ceilings = []
    turns = list(range(len(contenders)))
    shuffle = random.Random(0).shuffle
    with _no_garbage_collection():
        end = time.perf_counter() + seconds
        while len(samples[0]) < min_rounds or time.perf_counter() < end:
            shuffle(turns)
            for turn in turns:
                samples[turn].append(contenders[turn].burst(calls[turn]) / calls[turn])
            if beside is not None:
                ceilings.append(beside())
    return [Timing.of(times) for times in samples], median(ceilings) if ceilings else None


def _calls_per_burst(contender: Contender) -> int:
    """Also the warm-up: the first call packs weights and builds primitives."""
    seconds = contender.burst(1)
    if seconds < 10 * BURST_SECONDS:
        seconds = contender.burst(2) / 2
    return max(1, round(BURST_SECONDS / seconds))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def thread_count(threads: int) -> Iterator[None]:
    """Run with `threads` threads of torch's pool, which is also ours."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
