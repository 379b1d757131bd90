"""The time of a part of the model's own run, where other layers' data is in the caches.

A layer that is called again and again finds its input and its weights there; one that computes little gains
more by that than the convolution it is to replace. The rest of the run is left out, whose time varies by more
than what a small layer takes.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from statistics import median
from typing import Any

from torch import nn

from cnnkern.compression.inspection import Caught
from cnnkern.compression.rewriting import swapped
from cnnkern.compression.running import call, device_of
from cnnkern.compression.timing import clock_of, no_garbage_collection

MIN_ROUNDS = 5


def times_in_place(
    contenders: Sequence[tuple[nn.Module, nn.Module, nn.Module]], example: Any, seconds: float
) -> list[float | Exception]:
    """Seconds of a layer's call in a run of a model, medians over rounds.

    Args:
        contenders: a model in eval mode, a module of it, and the layer that is called in its place, or the
            module itself. They take turns for about `seconds`; a run ends where the layer has been called.
            A contender with which the model fails has the error instead of a time.
        example: what the models are run on.
    """

    def run(model: nn.Module, place: nn.Module, layer: nn.Module) -> float:
        with swapped(model, {} if layer is place else {place: layer}) as changed:
            return _seconds_between(changed, example, [layer], [layer])

    found: list[float | Exception] = [0.0] * len(contenders)
    runs: dict[int, Callable[[], float]] = {}
    for index, contender in enumerate(contenders):
        try:
            run(*contender)
            runs[index] = partial(run, *contender)
        except Exception as error:  # of the model's own code, that uses more of the convolution
            found[index] = error
    for index, taken in zip(runs, _in_turns(list(runs.values()), seconds), strict=True):
        found[index] = taken
    return found


def times_between(
    models: Sequence[nn.Module], example: Any, first: Collection[str], last: Collection[str], seconds: float
) -> list[float]:
    """Seconds from the first call of one of the modules `first` until all of `last` have been called since.

    Args:
        models: in eval mode, each with modules of these names; they take turns for about `seconds`, and their
            runs end there. example: what they are run on.
    """
    runs = []
    for model in models:
        begin, end = ([model.get_submodule(name) for name in names] for names in (first, last))
        runs.append(partial(_seconds_between, model, example, begin, end))
        runs[-1]()
    return _in_turns(runs, seconds)


def _in_turns(runs: Sequence[Callable[[], float]], seconds: float) -> list[float]:
    """Medians of what they return; each has run once before, which packs weights and builds primitives."""
    samples: list[list[float]] = [[] for _ in runs]
    if not runs:
        return []
    shuffle, order = random.Random(0).shuffle, list(range(len(runs)))
    with no_garbage_collection():
        end = time.perf_counter() + seconds
        while len(samples[0]) < MIN_ROUNDS or time.perf_counter() < end:
            shuffle(order)
            for index in order:
                samples[index].append(runs[index]())
    return [median(each) for each in samples]


def _seconds_between(
    model: nn.Module, example: Any, first: Collection[nn.Module], last: Collection[nn.Module]
) -> float:
    clock, marks, left = clock_of(device_of(model, example)), [], set(last)

    def before(*_: Any) -> None:
        if not marks:
            marks.append(clock.mark())

    def after(module: nn.Module, *_: Any) -> None:
        if not marks:
            return
        left.discard(module)
        if not left:
            marks.append(clock.mark())
            raise Caught

    hooks = [module.register_forward_pre_hook(before) for module in first]
    hooks += [module.register_forward_hook(after, prepend=True) for module in last]
    try:
        with suppress(Caught):
            call(model, example)
            marks.append(clock.mark())  # some of `last` are not called any more
    finally:
        for hook in hooks:
            hook.remove()
    clock.finish()
    return clock.seconds(*marks)
