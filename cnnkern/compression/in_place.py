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
    model: nn.Module, example: Any, conv: nn.Conv2d, layers: Sequence[nn.Module], seconds: float
) -> list[float | Exception]:
    """Seconds of a call of a convolution and of each of the layers in its place, medians over rounds.

    Args:
        model: in eval mode; its runs end where the layer has been called. example: what it is run on.
        layers: they take turns with `conv` for about `seconds`. One with which the model fails has the error
            instead of a time.
    """

    def run(module: nn.Module) -> float:
        with swapped(model, {} if module is conv else {conv: module}) as changed:
            return _seconds_between(changed, example, [module], [module])

    found: dict[nn.Module, float | Exception] = {}
    runs: dict[nn.Module, Callable[[], float]] = {}
    for module in (conv, *layers):
        try:
            run(module)
            runs[module] = partial(run, module)
        except Exception as error:  # of the model's own code, that uses more of the convolution
            found[module] = error
    found |= zip(runs, _in_turns(list(runs.values()), seconds), strict=True)
    return [found[module] for module in (conv, *layers)]


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
