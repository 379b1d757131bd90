"""The candidates of every convolution of a model, timed, fitted, and tried in the network one by one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn
from tqdm import tqdm

from cnnkern.compression.candidates import (
    Candidate,
    drop_dominated,
    fitted,
    timed,
)
from cnnkern.compression.fits import Fits
from cnnkern.compression.in_place import times_in_place
from cnnkern.compression.inspection import Place, activations
from cnnkern.compression.losses import Evaluate, checked
from cnnkern.compression.methods import method_named
from cnnkern.compression.planner import Option
from cnnkern.compression.processes import Processes
from cnnkern.compression.rewriting import sharing, swapped
from cnnkern.compression.running import call, inference

UNRUNNABLE = "the model cannot be run with it"


@dataclass
class Layer:
    """A place, and everything that was tried there.

    `seconds` is the convolution's time beside its candidates, `in_network` what it takes of a whole run of
    the model; a candidate's time is taken to change in the same proportion where it was not measured.
    """

    place: Place
    seconds: float
    candidates: list[Candidate]
    in_network: float

    def seconds_in_network(self, candidate: Candidate) -> float:
        """Measured there, or in proportion."""
        if candidate.in_network is not None:
            return candidate.in_network
        return self.in_network / self.seconds * candidate.seconds

    @property
    def alive(self) -> list[Candidate]:
        """Those that have a layer."""
        return [candidate for candidate in self.candidates if candidate.layer is not None]

    @property
    def usable(self) -> list[Candidate]:
        """Those that are faster, and whose loss is known."""
        return [candidate for candidate in self.candidates if candidate.loss is not None]

    @property
    def options(self) -> list[Option]:
        """For the planner: the convolution as it is, then the usable candidates."""
        scale = self.in_network / self.seconds
        found = [Option(each.in_network or scale * each.seconds, max(0.0, each.loss)) for each in self.usable]
        return [Option(self.in_network, 0.0), *found]


def search(
    model: nn.Module,
    example: Any,
    places: Sequence[Place],
    methods: Sequence[str],
    batches: Sequence[Any],
    evaluate: Evaluate,
    loss: float,
    fits: Fits,
    seconds: float,
    in_network: Mapping[str, float],
    processes: Processes,
) -> list[Layer]:
    """Time all candidates, then fit those that are faster, then measure the loss of those worth it.

    Args:
        model: in which the places are; each candidate takes its place for a moment, and leaves it.
        example: what is timed.
        batches: of the calibration. evaluate, loss: the measure of the model, and what it gives for `model`.
        seconds: of timing for each layer. in_network: those that each place takes in the model's own run.
        processes: the first times, all of them fit and measure losses.
    """
    bar = partial(tqdm, leave=False, disable=processes.hides_progress)

    def time_all() -> list[tuple[float, list[Candidate]]]:
        with inference(model):
            return [timed(place, methods, seconds) for place in bar(places, desc="timing", unit="layer")]

    layers = [
        Layer(place, own, candidates, in_network[place.name])
        for place, (own, candidates) in zip(places, processes.first(time_all), strict=True)
    ]
    faster = sum(not each.verdict for layer in layers for each in layer.candidates)
    with bar(total=faster, desc="fitting", unit="fit") as progress:
        for layer in layers:
            _fit(model, layer, batches, fits, processes, progress)
    _time_in_place(model, example, layers, seconds, processes)
    alive = [(layer, each) for layer in layers for each in layer.alive]

    with bar(total=len(alive), desc="losses", unit="candidate") as progress:

        def measure(job: tuple[Layer, Candidate]) -> float | str:
            layer, candidate = job
            progress.update(processes.size)
            if method_named(candidate.method).exact:
                return 0.0
            with swapped(model, {layer.place.conv: candidate.layer}) as changed:
                try:
                    return checked(evaluate, changed) - loss
                except Exception as error:  # of the model's own code, that uses more of the convolution
                    return _failed(UNRUNNABLE, error)

        losses = processes.spread(alive, measure)
    for (_, candidate), found in zip(alive, losses, strict=True):
        if isinstance(found, str):
            candidate.layer, candidate.verdict = None, found
        elif math.isinf(found):
            candidate.layer, candidate.verdict = None, "its loss is not finite"
        else:
            candidate.loss = found
    return layers


def _time_in_place(
    model: nn.Module, example: Any, layers: Sequence[Layer], seconds: float, processes: Processes
) -> None:
    """Time those that are left once more, in the model's own run: plans are made with these times. Besides,
    the fastest of many that were timed at once seems faster than it is.

    Each among others of its method, as most plans have them. A single one among other layers finds its code
    and what it works with in no cache any more: 0.15 ms of each of SqueezeNet's on a Xeon.
    """

    def time_all() -> list[list[float | str]]:
        methods = {each.method for layer in layers for each in layer.alive}
        bar = tqdm(layers, desc="timing", unit="layer", leave=False, disable=processes.hides_progress)
        with inference(model):
            companies = {method: _company(model, example, layers, method) for method in sorted(methods)}
            return [in_place(layer, companies) if layer.alive else [layer.seconds] for layer in bar]

    def in_place(layer: Layer, companies: Mapping[str, nn.Module]) -> list[float | str]:
        conv = layer.place.conv
        contenders = [(model, conv, conv)]
        for each in layer.alive:
            company = companies[each.method]
            contenders.append((company, company.get_submodule(layer.place.name), each.layer))
        found = times_in_place(contenders, example, seconds)
        return [_failed(UNRUNNABLE, each) if isinstance(each, Exception) else each for each in found]

    for layer, (own, *times) in zip(layers, processes.first(time_all), strict=True):
        layer.seconds = own
        for candidate, taken in zip(layer.alive, times, strict=True):
            if isinstance(taken, str):
                candidate.verdict = taken
            else:
                candidate.take_time(taken, own)
        drop_dominated(layer.alive)


def _company(model: nn.Module, example: Any, layers: Sequence[Layer], method: str) -> nn.Module:
    """The model with the fastest candidates of a method; the model itself where that cannot be run."""
    members = {}
    for layer in layers:
        made = [each for each in layer.alive if each.method == method]
        if made:
            members[layer.place.conv] = min(made, key=lambda each: each.seconds).layer
    company = sharing(model, members)
    try:
        call(company, example)
    except Exception:  # of the model's own code, that uses more of a convolution
        return model
    return company


def _fit(
    model: nn.Module,
    layer: Layer,
    batches: Sequence[Any],
    fits: Fits,
    processes: Processes,
    progress: tqdm,
) -> None:
    candidates = [candidate for candidate in layer.candidates if not candidate.verdict]
    if not candidates:
        return
    pairs = list(activations(model, layer.place.conv, batches))

    def fit(candidate: Candidate) -> tuple[nn.Module, float] | str:
        progress.set_postfix_str(f"{layer.place.name}: {candidate.title}")
        try:
            return fitted(layer.place, candidate, fits, pairs)
        except (RuntimeError, ValueError) as error:  # such as for images of another size than the example's
            return _failed("it cannot be fitted to the calibration", error)
        finally:
            progress.update(processes.size)

    for candidate, found in zip(candidates, processes.spread(candidates, fit), strict=True):
        if isinstance(found, str):
            candidate.verdict = found
        else:
            made, candidate.error = found
            candidate.layer = made.to(layer.place.x.device)
    drop_dominated(candidates)


def _failed(what: str, error: Exception) -> str:
    """A verdict, in one line."""
    return f"{what}: {type(error).__name__}: {' '.join(str(error).split())}"
