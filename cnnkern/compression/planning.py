"""From the search's estimates to a network that was measured: plan, build, measure, repair, again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from cnnkern.compression.inspection import activations
from cnnkern.compression.linking import link
from cnnkern.compression.losses import Evaluate, checked
from cnnkern.compression.methods import method_named
from cnnkern.compression.planner import least_loss, least_seconds, total
from cnnkern.compression.refit import refit, relative_error
from cnnkern.compression.report import Attempt
from cnnkern.compression.rewriting import replace
from cnnkern.compression.running import call, inference
from cnnkern.compression.search import Layer
from cnnkern.compression.timing import Turn, interleave

MOST_ATTEMPTS = 4
MOST_REPAIR = 2.0  # by which one measurement may change the estimate
CLOSE = 0.1  # how far from what was asked for is good enough
ROUNDING = 1e-6  # of the loss: what exact layers may change


@dataclass
class Built:
    """A plan that was a network: its new layers and their errors by name, and what was measured.

    The layers are not linked yet (see linking.py), since they may be trained; what was measured is.
    """

    plan: list[int]
    layers: dict[str, nn.Module]
    errors: dict[str, float]
    attempt: Attempt


@dataclass
class Planner:
    """Builds and measures plans for one model.

    Attributes:
        baseline: the original, which plans are measured beside; `whole` is the seconds of one run of it.
        model: it with its batch norms folded, or itself, in which `layers` were searched; `folded` is its
            seconds. example: what is timed.
        loss: of the original. seconds: of timing for each plan.
    """

    baseline: nn.Module
    whole: float
    model: nn.Module
    folded: float
    example: Any
    layers: Sequence[Layer]
    batches: Sequence[Any]
    evaluate: Evaluate
    loss: float
    seconds: float
    seed: int
    tried: list[Built] = field(default_factory=list)

    def for_speedup(self, target: float) -> Built | None:
        """The least loss at `target` times the speed; the fastest that was found, where none is so fast.

        The time saved in the network is what the layers save alone,
        times a factor that each measurement corrects.
        """
        options = [layer.options for layer in self.layers]
        own = sum(layer.in_network for layer in self.layers)
        wanted, factor = max(0.0, self.folded - self.whole / target), 1.0
        for _ in range(MOST_ATTEMPTS):
            plan = least_loss(options, max(0.0, own - wanted / factor))
            if plan is None:
                plan = [min(range(len(each)), key=lambda i, each=each: each[i].seconds) for each in options]
            if not self._build(plan, factor):
                break
            attempt = self.tried[-1].attempt
            if target <= attempt.speedup <= target * (1 + CLOSE):
                break
            saved = own - total(options, plan).seconds
            gained = self.folded - self.whole / attempt.speedup
            factor *= _bounded(gained / (saved * factor)) if saved and gained > 0 else 1 / MOST_REPAIR
        enough = [built for built in self.tried if built.attempt.speedup >= target]
        if enough:
            return min(enough, key=lambda built: built.attempt.loss)
        return max(self.tried, key=lambda built: built.attempt.speedup, default=None)

    def for_loss(self, most: float) -> Built | None:
        """The fastest network that loses `most` more than the original at most; None where none does.

        The loss of a plan is the sum of its layers' losses alone, times a factor that measurements correct.
        """
        options = [layer.options for layer in self.layers]
        factor = 1.0
        for _ in range(MOST_ATTEMPTS):
            plan = least_seconds(options, most / factor)
            if plan is None or not self._build(plan, loss_factor=factor):
                break
            lost = self.tried[-1].attempt.loss - self.loss
            if most * (1 - CLOSE) <= lost <= most:
                break
            factor *= _bounded(lost / most) if most else MOST_REPAIR
        most += ROUNDING * (1 + abs(self.loss))
        enough = [built for built in self.tried if built.attempt.loss - self.loss <= most]
        return max(enough, key=lambda built: built.attempt.speedup, default=None)

    def _build(self, plan: list[int], time_factor: float = 1.0, loss_factor: float = 1.0) -> bool:
        """Build and measure a plan; False for one that was measured already, or changes nothing."""
        if any(built.plan == plan for built in self.tried):
            return False
        if not any(plan) and self.model is self.baseline:
            return False
        model, layers, errors = self._network(plan)
        model = link(copy.deepcopy(model))
        loss = checked(self.evaluate, model)
        options = [layer.options for layer in self.layers]
        own = sum(layer.in_network for layer in self.layers)
        estimate = total(options, plan)
        before, after = timed_together([self.baseline, model], self.example, self.seconds)
        attempt = Attempt(
            predicted_seconds=before * (self.folded - (own - estimate.seconds) * time_factor) / self.whole,
            seconds=after,
            baseline_seconds=before,
            predicted_loss=self.loss + estimate.loss * loss_factor,
            loss=loss,
        )
        self.tried.append(Built(plan, layers, errors, attempt))
        return True

    def _network(self, plan: Sequence[int]) -> tuple[nn.Module, dict[str, nn.Module], dict[str, float]]:
        """A copy of the model with the plan's layers, each refitted to what the network before it gives;
        these layers, and their errors."""
        chosen = {
            layer.place.name: layer.usable[index - 1]
            for layer, index in zip(self.layers, plan, strict=True)
            if index
        }
        layers = {name: copy.deepcopy(candidate.layer) for name, candidate in chosen.items()}
        model, errors = self.with_layers(layers), {}
        for place in (layer.place for layer in self.layers if layer.place.name in chosen):
            layer = layers[place.name]
            targets = [y for _, y in activations(self.model, place.conv, self.batches)]
            inputs = [x for x, _ in activations(model, layer, self.batches)]
            pairs = list(zip(inputs, targets, strict=True))
            if not method_named(chosen[place.name].method).exact:
                better = refit(layer, pairs, self.seed).layer.eval()
                model = replace(model, {layer: better})
                layers[place.name] = layer = better
            errors[place.name] = relative_error(layer, pairs)
        return model, layers, errors

    def with_layers(self, layers: Mapping[str, nn.Module]) -> nn.Module:
        """A copy of the model with these layers in the places of these names."""
        places = [layer.place for layer in self.layers]
        memo = {id(place.conv): layers[place.name] for place in places if place.name in layers}
        return copy.deepcopy(self.model, memo)


def timed_together(models: Sequence[nn.Module], example: Any, seconds: float) -> list[float]:
    """Seconds of a run of each model on the example, in turns."""
    turns: list[Callable[[], Any]] = [lambda model=model: call(model, example) for model in models]
    with inference(nn.ModuleList(models)):
        timings, _ = interleave([Turn(run) for run in turns], seconds=seconds, min_rounds=5)
    return [timing.median for timing in timings]


def _bounded(ratio: float) -> float:
    return min(max(ratio, 1 / MOST_REPAIR), MOST_REPAIR)
