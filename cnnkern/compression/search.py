"""The candidates of every convolution of a model, timed, fitted, and tried in the network one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from tqdm import tqdm

from cnnkern.compression.candidates import Candidate, drop_dominated, fit, timed
from cnnkern.compression.fits import Fits
from cnnkern.compression.inspection import Place, activations
from cnnkern.compression.losses import Evaluate, checked
from cnnkern.compression.methods import method_named
from cnnkern.compression.planner import Option
from cnnkern.compression.profile_report import Profile
from cnnkern.compression.rewriting import swapped
from cnnkern.compression.running import inference


@dataclass
class Layer:
    """A place, and everything that was tried there.

    `seconds` is the convolution's time beside its candidates, `in_network` in the model's own run; other
    layers' data is in the caches there, and a candidate's time is taken to change in the same proportion.
    """

    place: Place
    seconds: float
    candidates: list[Candidate]
    in_network: float

    @property
    def usable(self) -> list[Candidate]:
        """Those that are faster, and whose loss is known."""
        return [candidate for candidate in self.candidates if candidate.loss is not None]

    @property
    def options(self) -> list[Option]:
        """For the planner: the convolution as it is, then the usable candidates."""
        scale = self.in_network / self.seconds
        found = [Option(scale * each.seconds, max(0.0, each.loss)) for each in self.usable]
        return [Option(self.in_network, 0.0), *found]


def search(
    model: nn.Module,
    places: Sequence[Place],
    methods: Sequence[str],
    batches: Sequence[Any],
    evaluate: Evaluate,
    loss: float,
    fits: Fits,
    seconds: float,
    profiled: Profile,
) -> list[Layer]:
    """Time all candidates, then fit those that are faster, then measure the loss of those worth it.

    Args:
        model: in which the places are; each candidate takes its place for a moment, and leaves it.
        batches: of the calibration. evaluate, loss: the measure of the model, and what it gives for `model`.
        seconds: of timing for each layer. profiled: the model's own run.
    """
    layers, in_network = [], {layer.name: layer.seconds for layer in profiled.layers}
    with inference(model):
        for place in tqdm(places, desc="timing", unit="layer", leave=False, disable=None):
            layers.append(Layer(place, *timed(place, methods, seconds), in_network[place.name]))
    faster = [(layer, each) for layer in layers for each in layer.candidates if not each.verdict]
    with tqdm(total=len(faster), desc="fitting", unit="fit", leave=False, disable=None) as bar:
        for layer in layers:
            _fit(model, layer, batches, fits, bar)
    alive = [(layer, each) for layer in layers for each in layer.candidates if each.layer is not None]
    for layer, candidate in tqdm(alive, desc="losses", unit="candidate", leave=False, disable=None):
        exact = method_named(candidate.method).exact
        with swapped(model, {layer.place.conv: candidate.layer}) as changed:
            candidate.loss = 0.0 if exact else checked(evaluate, changed) - loss
        if candidate.loss == float("inf"):
            candidate.loss, candidate.layer, candidate.verdict = None, None, "its loss is not finite"
    return layers


def _fit(model: nn.Module, layer: Layer, batches: Sequence[Any], fits: Fits, bar: tqdm) -> None:
    candidates = [candidate for candidate in layer.candidates if not candidate.verdict]
    if not candidates:
        return
    pairs = list(activations(model, layer.place.conv, batches))
    for candidate in candidates:
        bar.set_postfix_str(f"{layer.place.name}: {candidate.title}")
        fit(layer.place, candidate, fits, pairs)
        bar.update()
    drop_dominated(candidates)
