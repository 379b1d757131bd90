"""The time of a layer's call in the model's own run, where other layers' data is in the caches.

A layer that is called again and again finds its input and its weights there; one that computes little gains
more by that than the convolution it is to replace.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from contextlib import suppress
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
    found: dict[nn.Module, float | Exception] = {}
    samples: dict[nn.Module, list[float]] = {}
    for module in (conv, *layers):  # the first call packs weights and builds primitives
        try:
            _seconds_of_call(model, example, conv, module)
            samples[module] = []
        except Exception as error:  # of the model's own code, that uses more of the convolution
            found[module] = error
    shuffle, order = random.Random(0).shuffle, list(samples)
    with no_garbage_collection():
        end = time.perf_counter() + seconds
        while len(samples[conv]) < MIN_ROUNDS or time.perf_counter() < end:
            shuffle(order)
            for module in order:
                samples[module].append(_seconds_of_call(model, example, conv, module))
    found |= {module: median(each) for module, each in samples.items()}
    return [found[module] for module in (conv, *layers)]


def _seconds_of_call(model: nn.Module, example: Any, conv: nn.Conv2d, module: nn.Module) -> float:
    clock, marks = clock_of(device_of(model, example)), []

    def before(*_: Any) -> None:
        marks.append(clock.mark())

    def after(*_: Any) -> None:
        marks.append(clock.mark())
        raise Caught

    hooks = [module.register_forward_pre_hook(before), module.register_forward_hook(after, prepend=True)]
    try:
        with swapped(model, {} if module is conv else {conv: module}) as changed, suppress(Caught):
            call(changed, example)
    finally:
        for hook in hooks:
            hook.remove()
    clock.finish()
    return clock.seconds(*marks)
