"""Plans for a speed, where the clock is not of the estimate's opinion."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cnnkern.compression import planning
from cnnkern.compression.planner import Bond, Knapsack, Option
from cnnkern.compression.planning import MOST_ATTEMPTS, Attempt, Built, Planner

# ten layers of a second each: half of that for next to nothing, or a tenth and a great loss
LAYERS = [[Option(1.0, 0.0), Option(0.5, 0.001), Option(0.1, 1.0 + i / 100)] for i in range(10)]
WHOLE = 10.0


class Scripted(Planner):
    """One for which the clock says of a plan what `clock` makes of its estimated seconds."""

    def __init__(self, clock: Callable[[float], float], layers: list[list[Option]]) -> None:
        nothing = nn.Identity()
        super().__init__(
            nothing, WHOLE, nothing, WHOLE, torch.ones(1), [], [], lambda m: m, [], lambda _: 0.0, 0.0, 1.0, 0
        )
        self.choices, self.own, self.clock = Knapsack(layers), WHOLE, clock

    def _build(self, plan: list[int], loss_factor: float = 1.0) -> bool:
        if any(built.plan == plan for built in self.tried):
            return False
        estimate = self.choices.total(plan)
        attempt = Attempt(
            predicted_seconds=estimate.seconds,
            seconds=self.clock(estimate.seconds),
            baseline_seconds=WHOLE,
            predicted_loss=estimate.loss,
            loss=estimate.loss,
        )
        self.tried.append(Built(plan, {}, {}, attempt))
        return True


def reached(
    clock: Callable[[float], float], target: float, layers: list[list[Option]] = LAYERS
) -> tuple[float, float, int]:
    """Speed, loss, and how many networks were built."""
    planner = Scripted(clock, layers)
    built = planner.for_speedup(target)
    return built.attempt.speedup, built.attempt.loss, len(planner.tried)


def test_one_network_is_enough_where_the_estimate_is_right():
    speed, loss, built = reached(lambda estimate: estimate, 1.6)
    assert speed == pytest.approx(1.6, rel=0.1)
    assert loss == pytest.approx(0.008)
    assert built == 1


def test_a_plan_that_loses_far_less_and_is_hardly_too_slow_by_the_estimate_is_tried():
    layers = [[Option(1.0, 0.0), Option(0.5, 0.001), Option(0.4, 1.0)] for _ in range(10)]
    speed, loss, built = reached(lambda estimate: WHOLE - 1.03 * (WHOLE - estimate), 2.05, layers)
    assert speed >= 2.05
    assert loss == pytest.approx(0.01)
    assert built == 2


@pytest.mark.parametrize("rate", [0.5, 0.8, 1.1])
def test_plans_are_repaired_until_they_are_fast_enough_and_lose_little(rate: float):
    speed, loss, built = reached(lambda estimate: WHOLE - rate * (WHOLE - estimate), 1.6)
    least = next(o.loss for o in plans() if WHOLE / (WHOLE - rate * (WHOLE - o.seconds)) >= 1.6)
    assert speed >= 1.6
    assert loss <= least + 1.1
    assert built <= MOST_ATTEMPTS


def test_a_plan_between_one_too_slow_and_one_that_loses_too_much_is_found():
    # beyond half, the clock is far ahead of the estimate, which believes that nothing is fast enough
    def clock(estimate: float) -> float:
        return estimate if estimate > 4.9 else 0.5 * estimate + 0.5

    speed, loss, _ = reached(clock, 12.0)
    assert speed == reached(clock, 100.0)[0]  # the fastest, since nothing is so fast
    speed, loss, built = reached(clock, 2.2)
    assert speed >= 2.2
    assert loss < 2.2
    assert built <= MOST_ATTEMPTS


def plans() -> list[Option]:
    """All that are the least loss for their time, from the slowest."""
    choices = Knapsack(LAYERS)
    return [choices.total(choices.least_loss(10 - 0.05 * step)) for step in range(181)]


def test_where_nothing_is_fast_enough_a_plan_that_the_estimate_is_wrong_about_is_found():
    # by the estimate the fastest saves 7 of 10 seconds and loses 10; one of 6 loses nothing, and is right
    layers = [[Option(1.0, 0.0), Option(0.4, 0.001), Option(0.3, 1.0)] for _ in range(10)]
    speed, loss, built = reached(lambda estimate: max(estimate, 4.0), 4.0, layers)
    assert speed == pytest.approx(2.5)
    assert loss == pytest.approx(0.01)
    assert built <= MOST_ATTEMPTS


@pytest.mark.parametrize("rate", [0.6, 1.3])
def test_one_network_is_enough_where_the_estimate_is_wrong_by_a_known_factor(rate: float):
    planner = Scripted(lambda estimate: WHOLE - rate * (WHOLE - estimate), LAYERS)
    planner.factor = rate
    assert planner.for_speedup(1.4).attempt.speedup == pytest.approx(1.4, rel=0.1)
    assert len(planner.tried) == 1


def test_the_factor_is_what_all_layers_save_together_over_what_they_save_alone(monkeypatch):
    planner = Scripted(lambda estimate: estimate, LAYERS)  # the fastest plan saves 9 of 10 seconds
    planner.layers = []
    monkeypatch.setattr(Planner, "_chosen", lambda *_: {})
    monkeypatch.setattr(planning, "timed_together", lambda *_: [2 * WHOLE, 2 * 5.5])
    factor, bonds = planner.measure()
    assert factor == pytest.approx(0.5)
    assert bonds == []


@pytest.mark.parametrize(("joined", "more"), [(3.0, 2.0), (5.0, 0.0), (6.0, 0.0)])
def test_int8_layers_that_are_faster_together_than_by_the_estimate_are_bound(monkeypatch, joined, more):
    # of 10 seconds, two sparse layers save 6 by the estimate and by the clock; two in int8 5 by the estimate
    layers = [[Option(5.0, 0.0), Option(2.0, 1.0), Option(2.5, 0.1)] for _ in range(2)]
    planner = Scripted(lambda estimate: estimate, layers)
    kinds = [SimpleNamespace(joins=False), SimpleNamespace(joins=True)]
    planner.layers = [SimpleNamespace(usable=kinds)] * 2
    monkeypatch.setattr(Planner, "_as_searched", lambda _, plan: nn.Sequential(*[nn.Identity()] * plan[0]))
    monkeypatch.setattr(planning, "timed_together", lambda *_: [10.0, 4.0, joined])
    factor, bonds = planner.measure()
    assert factor == pytest.approx(1.0)
    assert bonds == ([Bond({0: 2, 1: 2}, more)] if more else [])
    assert len(planner.fastest) == (2 if joined < 4 else 1)
    planner.take(factor, bonds)
    assert planner.choices.least_seconds() == ([2, 2] if joined < 4 else [1, 1])


def test_a_prediction_follows_the_fastest_network_that_is_timed_beside_it(monkeypatch):
    planner = Scripted(lambda estimate: estimate, LAYERS)
    planner.layers = []
    monkeypatch.setattr(Planner, "_chosen", lambda *_: {})
    monkeypatch.setattr(planning, "timed_together", lambda models, *_: [10.0, 5.0, 4.0][: len(models)])
    planner.take(*planner.measure())
    # half of what the fastest plan saves by the estimate is half of what it saves here: of 10 seconds, 6
    plan = planner.choices.least_loss(WHOLE - 4.5)
    assert Planner._build(planner, plan)
    attempt = planner.tried[-1].attempt
    saved = (WHOLE - planner.choices.total(plan).seconds) / 9
    assert attempt.predicted_seconds == pytest.approx(10 - 6 * saved)
    assert attempt.seconds == 5.0
