"""The integer program finds what trying out every plan finds."""

import random
from itertools import product

import pytest

from cnnkern.compression.planner import Option, front, least_loss, least_seconds, total

LAYERS = [[Option(4, 0), Option(2, 1), Option(1, 3)], [Option(6, 0), Option(3, 0.5)], [Option(5, 0)]]


def drawn(seed: int) -> list[list[Option]]:
    """Layers with an option that loses nothing and some that are faster; exact in binary."""
    draw = random.Random(seed).randrange
    return [
        [Option(64, 0.0), *(Option(draw(1, 64) / 64, draw(1, 64) / 1024) for _ in range(draw(4)))]
        for _ in range(4)
    ]


def every(layers: list[list[Option]]) -> list[Option]:
    return [total(layers, plan) for plan in product(*(range(len(layer)) for layer in layers))]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 1.0])
def test_no_plan_is_better(seed: int, share: float):
    layers = drawn(seed)
    plans = every(layers)
    fastest, slowest = min(plan.seconds for plan in plans), max(plan.seconds for plan in plans)
    seconds = fastest + share * (slowest - fastest)
    best = min(plan.loss for plan in plans if plan.seconds <= seconds)
    found = total(layers, least_loss(layers, seconds))
    assert (found.loss, found.seconds <= seconds) == (best, True)
    loss = share * max(plan.loss for plan in plans)
    best = min(plan.seconds for plan in plans if plan.loss <= loss)
    found = total(layers, least_seconds(layers, loss))
    assert (found.seconds, found.loss <= loss) == (best, True)


def test_what_cannot_be_has_no_plan():
    assert least_loss(LAYERS, 8.9) is None
    assert least_loss(LAYERS, 9) == [2, 1, 0]
    assert least_seconds(LAYERS, 0) == [0, 0, 0]
    assert least_loss([], 1) == []


def test_of_equal_plans_the_faster_one_is_taken():
    assert least_loss([[Option(3, 0), Option(1, 0), Option(2, 0)]], 10) == [1]


def test_the_front_goes_from_the_fastest_plan_to_the_exact_one():
    points = front(LAYERS, 16)
    assert points[0] == Option(9, 3.5)
    assert points[-1] == Option(15, 0)
    assert sorted(points, key=lambda point: -point.loss) == points


def test_what_is_no_number_is_refused():
    with pytest.raises(ValueError, match="finite"):
        least_loss([[Option(1, float("nan"))]], 1)
