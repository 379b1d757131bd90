"""What int8 layers save in the model's own run, alone and by handing integers on to each other.

What stands between them changes with them: ReLUs that they do, and poolings of a quarter of the bytes.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from tqdm import tqdm

from cnnkern.compression.candidates import Candidate, too_slow
from cnnkern.compression.in_place import times_between
from cnnkern.compression.linking import link, links, rectifiable, rectify
from cnnkern.compression.planner import Bond
from cnnkern.compression.rewriting import sharing
from cnnkern.compression.running import inference
from cnnkern.compression.search import Layer


@dataclass
class Savings:
    """Seconds that the int8 candidates of layers save, by the layers' names: those that do a ReLU
    behind them alone, and groups of them beyond that."""

    alone: dict[str, float]
    together: list[tuple[set[str], float]]


def measure_savings(
    model: nn.Module, layers: Sequence[Layer], example: Any, seconds: float, *, hides_progress: bool
) -> Savings:
    """What the int8 candidates of these layers save in the model's own run, all of them being there (see
    search.py); no groups that save nothing.

    Args:
        model: in which the layers' places are; it is not changed. example: what is timed.
        seconds: of timing for each comparison.
    """
    int8 = _int8_candidates(layers)
    everything = _with(model, layers, int8)
    names = {module: name for name, module in everything.named_modules()}
    groups = []
    for found, readers in links(everything):
        writers = {names[each] for each in found}
        chain = writers | {names[each] for each in readers}
        if chain & int8.keys():  # a model may have int8 layers already
            groups.append((writers, chain))
    # the others change nothing around them
    rectified = {
        names[layer]: {names[layer], *(names[relu] for relu in relus)}
        for layer, relus in rectifiable(everything).items()
        if names[layer] in int8
    }
    everything = rectify(everything)
    alone, together = {}, []
    comparisons = len(rectified) + len(groups)
    with tqdm(total=comparisons, desc="int8", unit="timing", leave=False, disable=hides_progress) as bar:
        for name, behind in rectified.items():
            before, after = _times([model, everything], example, {name}, behind, seconds)
            alone[name] = before - after
            bar.update()
        for writers, chain in groups:
            joined = _with(model, layers, int8)
            joined = link(joined, [joined.get_submodule(name) for name in writers])
            before, after = _times([everything, joined], example, chain, chain, seconds)
            if after < before:
                together.append((chain & int8.keys(), before - after))
            bar.update()
    return Savings(alone, together)


def take_savings(layers: Sequence[Layer], savings: Savings) -> list[Bond]:
    """Give the int8 candidates what they save alone, and return what they save together.

    Those that are no faster alone, and are in no group, get their verdict.
    """
    int8 = _int8_candidates(layers)
    for layer in layers:
        name = layer.place.name
        if name not in int8:
            continue
        if name in savings.alone:
            int8[name].in_network = max(0.0, layer.in_network - savings.alone[name])
        slow = too_slow(layer.seconds_in_network(int8[name]), layer.in_network)
        if slow and not any(name in members for members, _ in savings.together):
            int8[name].verdict, int8[name].layer, int8[name].loss = slow, None, None
    return [
        Bond(
            {
                index: 1 + layer.usable.index(int8[layer.place.name])
                for index, layer in enumerate(layers)
                if layer.place.name in members
            },
            gained,
        )
        for members, gained in savings.together
    ]


def _int8_candidates(layers: Sequence[Layer]) -> dict[str, Candidate]:
    """By the names of their places."""
    return {layer.place.name: each for layer in layers for each in layer.usable if each.joins}


def _times(
    models: Sequence[nn.Module], example: Any, first: Collection[str], last: Collection[str], seconds: float
) -> list[float]:
    with inference(nn.ModuleList(models)):
        return times_between(models, example, first, last, seconds)


def _with(model: nn.Module, layers: Sequence[Layer], int8: Mapping[str, Candidate]) -> nn.Module:
    """A copy of the model that shares its tensors, with copies of these candidates in their places."""
    return sharing(
        model,
        {
            layer.place.conv: copy.deepcopy(int8[layer.place.name].layer)
            for layer in layers
            if layer.place.name in int8
        },
    )
