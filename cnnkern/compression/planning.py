"""From the search's estimates to a network that was measured: plan, build, measure, repair, again."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from cnnkern.compression.candidates import Candidate
from cnnkern.compression.inspection import activations
from cnnkern.compression.losses import ROUNDING, Evaluate, checked
from cnnkern.compression.methods import method_named
from cnnkern.compression.planner import Bond, Knapsack
from cnnkern.compression.refit import refit, relative_error
from cnnkern.compression.report import Attempt
from cnnkern.compression.rewriting import replace
from cnnkern.compression.running import on_cpu, timed_together
from cnnkern.compression.search import Layer

MOST_ATTEMPTS = 5  # networks that are built and measured
MOST_PLANS = 20  # that are made, some of them again
MOST_REPAIR = 2.0  # by which one measurement may change the estimate
CLOSE = 0.1  # how far from what was asked for is good enough
WORTH = 0.2  # a part of the loss for which one more network is built
NARROW = 0.02  # a part of what is to be saved that no plan is looked for in


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
class Bracket:
    """Which saving by the estimate gives a wanted one by the clock: it lies between two that were tried."""

    wanted: float
    short: tuple[float, float] = (0.0, 0.0)  # by the estimate and by the clock: less than wanted
    enough: tuple[float, float] | None = None

    def take(self, estimate: float, saved: float) -> None:
        """A plan was measured."""
        if saved >= self.wanted:
            self.enough = estimate, saved
        else:
            self.short = estimate, saved
        if self.enough is not None and self.short[0] >= self.enough[0]:
            self.short = 0.0, 0.0  # the clock contradicts the estimate: begin again from below

    def pass_by(self, estimate: float) -> bool:
        """No plan that saves this or more loses less than the one that saved enough; False where none did, or
        where nothing is left between."""
        if self.enough is None:
            return False
        self.enough = min(estimate, self.enough[0]), self.enough[1]
        return self.enough[0] - self.short[0] > NARROW * self.wanted

    def next(self) -> float:
        """The saving to plan for by the estimate."""
        (low, short), enough = self.short, self.enough
        if enough is None:
            return low * (_bounded(self.wanted / short) if short > 0 else MOST_REPAIR)
        share = (self.wanted - short) / (enough[1] - short) if enough[1] > short else 0.5
        return low + min(max(share, CLOSE), 1 - CLOSE) * (enough[0] - low)


@dataclass
class Planner:
    """Builds and measures plans for one model.

    Attributes:
        baseline: the original, which plans are measured beside; `whole` is the seconds of one run of it.
        model: it with its batch norms folded, or itself, in which `layers` were searched; `folded` is its
            seconds. bonds: what some of their options save together. link: makes int8 layers hand integers on
            (see linking.py), or nothing. example: what is timed.
        loss: of the original. seconds: of timing for each plan. factor: what is saved in a run of the network
            over what the estimate says, and `fastest` the network that showed it; see `measure`.
    """

    baseline: nn.Module
    whole: float
    model: nn.Module
    folded: float
    example: Any
    layers: Sequence[Layer]
    bonds: Sequence[Bond]
    link: Callable[[nn.Module], nn.Module]
    batches: Sequence[Any]
    evaluate: Evaluate
    loss: float
    seconds: float
    seed: int
    tried: list[Built] = field(default_factory=list)
    factor: float = 1.0
    fastest: nn.Module | None = None

    def __post_init__(self) -> None:
        self.choices = Knapsack([layer.options for layer in self.layers], self.bonds)
        self.own = sum(layer.in_network for layer in self.layers)

    def measure(self) -> tuple[float, list[Bond]]:
        """`factor`, from what the fastest options save when all of them are there, and what the int8 ones
        save beyond the estimate when they all are, as a bond between them.

        They leave other data in the caches than the layers they replace, and a busy machine slows one kind of
        layer more than another: times of single layers do not show that. Nor do they show what it costs that
        layers of several kinds take turns. Networks are timed beside the fastest of these from then on.
        """
        plan, joined = self.choices.least_seconds(), self._joined()
        if self.choices.total(plan).seconds >= self.own:
            return 1.0, []
        plans = [plan] if joined in (None, plan) else [plan, joined]
        networks = [self._as_searched(each) for each in plans]
        before, *after = timed_together([self.baseline, *networks], self.example, self.seconds)
        self.fastest = networks[after.index(min(after))]
        factor = self._factor(before, after[0])
        if len(plans) == 1:
            return factor, []
        saved = (self.folded - self.whole / before * after[1]) / factor
        more = saved - (self.own - self.choices.total(joined).seconds)
        return factor, [Bond({i: o for i, o in enumerate(joined) if o}, more)] if more > 0 else []

    def take(self, factor: float, bonds: Sequence[Bond]) -> None:
        """Plan with what was measured."""
        self.factor = factor
        self.choices = Knapsack(self.choices.layers, [*self.choices.bonds, *bonds])

    def _joined(self) -> list[int] | None:
        """The plan with all options that join; None where there are not several."""
        plan = [
            next((1 + index for index, each in enumerate(layer.usable) if each.joins), 0)
            for layer in self.layers
        ]
        return plan if sum(map(bool, plan)) > 1 else None

    def _as_searched(self, plan: list[int]) -> nn.Module:
        """The network of a plan, its layers as they were fitted to the original."""
        layers = {name: copy.deepcopy(candidate.layer) for name, candidate in self._chosen(plan).items()}
        return self.link(self.with_layers(layers))

    def _factor(self, before: float, after: float) -> float:
        """From seconds of the original and of `fastest`."""
        estimate = self.own - self.choices.total(self.choices.least_seconds()).seconds
        return _bounded((self.folded - self.whole / before * after) / estimate)

    def for_speedup(self, target: float) -> Built | None:
        """The least loss at `target` times the speed; where none is so fast, about the fastest found.

        The time saved in the network is about what the layers save alone and by their bonds. What is asked
        of these is corrected by each measurement, between a plan that saved too little and one that saved
        enough. A plan that saves a little less by the estimate, and loses far less, is given its chance.
        """
        wanted = max(0.0, self.folded - self.whole / target)
        bracket, saved = Bracket(wanted), wanted / self.factor
        for _ in range(MOST_PLANS):
            plan = self.choices.least_loss(self.own - saved) or self._about_fastest()
            if self._build(plan):
                attempt = self.tried[-1].attempt
                close = target <= attempt.speedup <= target * (1 + CLOSE)
                lossless = attempt.speedup >= target and attempt.loss <= self.loss
                if lossless or (close and not self._loses_far_less(plan)):
                    break
                estimate = self.own - self.choices.total(plan).seconds
                bracket.take(estimate, self.folded - self.whole / attempt.speedup)
            elif not bracket.pass_by(saved):
                break
            if len(self.tried) == MOST_ATTEMPTS:
                break
            saved = bracket.next()
        if bracket.enough is None:
            self._try_slower()
        sound = [built for built in self.tried if math.isfinite(built.attempt.loss)]
        enough = [built for built in sound if built.attempt.speedup >= target]
        if enough:
            return min(enough, key=lambda built: built.attempt.loss)
        most = max((built.attempt.speedup for built in sound), default=0.0)
        near = [built for built in sound if built.attempt.speedup >= most * (1 - CLOSE)]
        return min(near, key=lambda built: built.attempt.loss, default=None)

    def _try_slower(self) -> None:
        """Build plans that save a little less than the fastest by the estimate, and lose far less.

        Where nothing is fast enough, what the estimate is wrong by could cost all the accuracy.
        """
        most = self.own - self.choices.total(self.choices.least_seconds()).seconds
        for step in range(1, MOST_ATTEMPTS):
            plan = self.choices.least_loss(self.own - (1 - step * CLOSE / 2) * most)
            least = min((self.choices.total(built.plan).loss for built in self.tried), default=math.inf)
            if len(self.tried) < MOST_ATTEMPTS and self.choices.total(plan).loss < (1 - WORTH) * least:
                self._build(plan)

    def _loses_far_less(self, plan: list[int]) -> bool:
        """Whether a plan would that saves a little less by the estimate, and was not tried yet."""
        least = self.choices.total(plan)
        near = self.choices.least_loss(self.own - (1 - CLOSE) * (self.own - least.seconds))
        tried = any(built.plan == near for built in self.tried)
        return not tried and self.choices.total(near).loss < (1 - WORTH) * least.loss

    def _about_fastest(self) -> list[int]:
        """The least loss at nearly the most speed, by the estimate: the last percents cost the most."""
        fastest = self.choices.least_seconds()
        seconds = self.choices.total(fastest).seconds
        more = CLOSE * (self.folded / self.factor - (self.own - seconds))
        return self.choices.least_loss(seconds + more) or fastest

    def for_loss(self, most: float) -> Built | None:
        """The fastest network that loses `most` more than the original at most; None where none does.

        The loss of a plan is the sum of its layers' losses alone, times a factor that measurements correct.
        """
        factor = 1.0
        for _ in range(MOST_ATTEMPTS):
            plan = self.choices.least_seconds(most / factor)
            if plan is None or not self._build(plan, factor):
                break
            lost = self.tried[-1].attempt.loss - self.loss
            if most * (1 - CLOSE) <= lost <= most:
                break
            factor *= _bounded(lost / most) if most else MOST_REPAIR
        most += ROUNDING * (1 + abs(self.loss))
        enough = [built for built in self.tried if built.attempt.loss - self.loss <= most]
        return max(enough, key=lambda built: built.attempt.speedup, default=None)

    def _build(self, plan: list[int], loss_factor: float = 1.0) -> bool:
        """Build and measure a plan; False for one that was measured already, or changes nothing."""
        if any(built.plan == plan for built in self.tried):
            return False
        if not any(plan) and self.model is self.baseline:
            return False
        model, layers, errors = self._network(plan)
        model = self.link(copy.deepcopy(model))
        loss = checked(self.evaluate, model)
        estimate = self.choices.total(plan)
        beside = [] if self.fastest is None else [self.fastest]
        models = [self.baseline, model, *beside]
        before, after, *fastest = timed_together(models, self.example, self.seconds)
        factor = self._factor(before, *fastest) if fastest else self.factor
        attempt = Attempt(
            predicted_seconds=before / self.whole * (self.folded - (self.own - estimate.seconds) * factor),
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
        chosen = self._chosen(plan)
        layers = {name: copy.deepcopy(candidate.layer) for name, candidate in chosen.items()}
        model, errors = self.with_layers(layers), {}
        for place in (layer.place for layer in self.layers if layer.place.name in chosen):
            layer = layers[place.name]
            before = list(activations(self.model, place.conv, self.batches))
            now = list(activations(model, layer, self.batches))
            if [x.shape for x, _ in before] != [x.shape for x, _ in now]:
                continue  # what is called depends on the data, which are others now
            pairs = [(x, y) for (x, _), (_, y) in zip(now, before, strict=True)]
            better = on_cpu(layer)
            if not method_named(chosen[place.name].method).exact:
                better = refit(better, pairs, self.seed).layer.eval()
            errors[place.name] = relative_error(better, pairs)
            layers[place.name] = better.to(place.x.device)
            model = replace(model, {layer: layers[place.name]})
        return model, layers, errors

    def _chosen(self, plan: Sequence[int]) -> dict[str, Candidate]:
        """A plan's candidates, by the names of their places."""
        return {
            layer.place.name: layer.usable[index - 1]
            for layer, index in zip(self.layers, plan, strict=True)
            if index
        }

    def with_layers(self, layers: Mapping[str, nn.Module]) -> nn.Module:
        """A copy of the model with these layers in the places of these names."""
        places = [layer.place for layer in self.layers]
        memo = {id(place.conv): layers[place.name] for place in places if place.name in layers}
        return copy.deepcopy(self.model, memo)


def _bounded(ratio: float) -> float:
    return min(max(ratio, 1 / MOST_REPAIR), MOST_REPAIR)
