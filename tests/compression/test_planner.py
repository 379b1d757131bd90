"""The integer program finds what trying out every plan finds."""

import random
from itertools import product

import pytest

from cnnkern.compression.planner import Bond, Knapsack, Option

LAYERS = [[Option(4, 0), Option(2, 1), Option(1, 3)], [Option(6, 0), Option(3, 0.5)], [Option(5, 0)]]


def drawn(seed: int) -> Knapsack:
    """Layers with an option that loses nothing and some that are faster, and bonds; exact in binary."""
    draw = random.Random(seed).randrange
    layers = [
        [Option(64, 0.0), *(Option(draw(1, 64) / 64, draw(1, 64) / 1024) for _ in range(draw(4)))]
        for _ in range(4)
    ]
    pairs = [(first, first + 1 + draw(3 - first)) for first in range(3)]
    return Knapsack(
        layers, [Bond({i: draw(len(layers[i])) for i in pair}, draw(1, 64) / 64) for pair in pairs]
    )


def every(choices: Knapsack) -> list[Option]:
    return [choices.total(plan) for plan in product(*(range(len(layer)) for layer in choices.layers))]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 1.0])
def test_no_plan_is_better(seed: int, share: float):
    choices = drawn(seed)
    plans = every(choices)
    fastest, slowest = min(plan.seconds for plan in plans), max(plan.seconds for plan in plans)
    seconds = fastest + share * (slowest - fastest)
    best = min(plan.loss for plan in plans if plan.seconds <= seconds)
    found = choices.total(choices.least_loss(seconds))
    assert (found.loss, found.seconds <= seconds) == (best, True)
    loss = share * max(plan.loss for plan in plans)
    best = min(plan.seconds for plan in plans if plan.loss <= loss)
    found = choices.total(choices.least_seconds(loss))
    assert (found.seconds, found.loss <= loss) == (best, True)


def test_what_cannot_be_has_no_plan():
    assert Knapsack(LAYERS).least_loss(8.9) is None
    assert Knapsack(LAYERS).least_loss(9) == [2, 1, 0]
    assert Knapsack(LAYERS).least_seconds(0) == [0, 0, 0]
    assert Knapsack([]).least_loss(1) == []


def test_of_equal_plans_the_better_one_is_taken():
    assert Knapsack([[Option(3, 0), Option(1, 0), Option(2, 0)]]).least_loss(10) == [1]
    assert Knapsack([[Option(3, 2), Option(3, 1), Option(3, 3)]]).least_seconds() == [1]


def test_speed_that_costs_nothing_is_taken_however_much_others_lose():
    free, dear = [Option(3e-3, 0), Option(2.9e-3, 0)], [Option(1, 0), Option(0.5, 900)]
    assert Knapsack([free, dear]).least_loss(10) == [1, 0]


def test_the_front_goes_from_the_fastest_plan_to_the_exact_one():
    points = Knapsack(LAYERS).front(16)
    assert points[0] == Option(9, 3.5)
    assert points[-1] == Option(15, 0)
    assert sorted(points, key=lambda point: -point.loss) == points


def test_what_is_no_number_is_refused():
    with pytest.raises(ValueError, match="finite"):
        Knapsack([[Option(1, float("nan"))]]).least_loss(1)


def test_what_is_faster_together_alone_is_taken_together():
    choices = Knapsack(
        [[Option(4, 0), Option(5, 0.5)], [Option(4, 0), Option(5, 0.5)]], [Bond({0: 1, 1: 1}, 6)]
    )
    assert choices.least_seconds(0.5) == [0, 0]
    assert choices.least_seconds() == [1, 1]
    assert choices.least_loss(7) == [1, 1]
    assert choices.least_loss(3) is None
    assert choices.total([1, 1]) == Option(4, 1)
    assert choices.front(3) == [Option(4, 1), Option(8, 0)]
