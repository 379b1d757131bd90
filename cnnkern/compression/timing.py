"""Honest timing: functions that take turns in one run, median and spread.

They take turns in bursts of a few milliseconds, in an order that is shuffled every round, so that a slow
second of a shared machine hits all of them. The machine's ceiling is sampled in the same rounds.
"""

import gc
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Protocol

import torch

BURST_SECONDS = 2e-3


class Clock(Protocol):
    """Marks points of a device's work, and tells the seconds between two of them once it is finished."""

    def mark(self) -> Any: ...

    def finish(self) -> None: ...

    def seconds(self, start: Any, end: Any) -> float: ...


class CpuClock:
    """Work on the CPU is done when the call returns."""

    mark = staticmethod(time.perf_counter)

    def finish(self) -> None:
        pass

    def seconds(self, start: float, end: float) -> float:
        return end - start


class CudaClock:
    """Events in the current stream: the time between them is the device's, not that of the launching."""

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def finish(self) -> None:
        torch.cuda.synchronize()

    def seconds(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        return start.elapsed_time(end) / 1e3


def clock_of(device: torch.device) -> Clock:
    return CudaClock() if device.type == "cuda" else CpuClock()


class Contender(Protocol):
    """Something that can be asked for the seconds that calls in a row take."""

    def burst(self, calls: int) -> float: ...


@dataclass(frozen=True)
class Turn:
    """A function of this process as a contender, by the clock of the device that it works on."""

    run: Callable[[], Any]
    clock: Clock = field(default_factory=CpuClock)

    def burst(self, calls: int) -> float:
        run, clock = self.run, self.clock
        start = clock.mark()
        for _ in range(calls):
            run()
        end = clock.mark()
        clock.finish()
        return clock.seconds(start, end)


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
    with no_garbage_collection():
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
def no_garbage_collection() -> Iterator[None]:
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
