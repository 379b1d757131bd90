"""One option for each layer: a knapsack with a choice per layer, solved exactly as an integer program."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

TIE = 1e-6  # how much the other quantity counts, so that of equal plans the better one is taken


@dataclass(frozen=True)
class Option:
    """What a layer may become: its seconds, and what it adds to the loss by itself, at least 0."""

    seconds: float
    loss: float


Layers = Sequence[Sequence[Option]]


def least_loss(layers: Layers, seconds: float) -> list[int] | None:
    """The option of each layer such that the sum of losses is least and all take `seconds` at most.

    None where even the fastest options take longer.
    """
    return _solve(layers, [o.loss for layer in layers for o in layer], _seconds(layers), seconds)


def least_seconds(layers: Layers, loss: float) -> list[int] | None:
    """The option of each layer such that all take the least time and the losses add up to `loss` at most."""
    return _solve(layers, _seconds(layers), [o.loss for layer in layers for o in layer], loss)


def total(layers: Layers, plan: Sequence[int]) -> Option:
    """What a plan takes and loses by the estimate: sums over the layers."""
    chosen = [layer[index] for layer, index in zip(layers, plan, strict=True)]
    return Option(sum(option.seconds for option in chosen), sum(option.loss for option in chosen))


def front(layers: Layers, steps: int) -> list[Option]:
    """The least loss for `steps` times between the fastest plan and the slowest, by the estimate."""
    fastest = sum(min(option.seconds for option in layer) for layer in layers)
    slowest = sum(max(option.seconds for option in layer) for layer in layers)
    points = []
    for step in range(steps):
        plan = least_loss(layers, fastest * (1 + 1e-9) + (slowest - fastest) * step / max(1, steps - 1))
        if plan is not None and total(layers, plan) not in points:
            points.append(total(layers, plan))
    return points


def _seconds(layers: Layers) -> list[float]:
    return [option.seconds for layer in layers for option in layer]


def _solve(layers: Layers, cost: Sequence[float], weight: Sequence[float], most: float) -> list[int] | None:
    """Binary x with one option a layer, least cost·x, weight·x <= most; both are scaled to about 1."""
    if not layers:
        return []
    if any(not math.isfinite(value) for value in (*cost, *weight)):
        raise ValueError("options: expected finite times and losses")
    owners = np.repeat(np.arange(len(layers)), [len(layer) for layer in layers])
    one_each = (owners == np.arange(len(layers))[:, None]).astype(float)
    largest = max(weight) or 1.0
    cost, weight = np.asarray(cost) / (max(cost) or 1.0), np.asarray(weight) / largest
    solved = milp(
        cost + TIE * weight,
        integrality=np.ones(len(owners)),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(weight[None], -np.inf, most / largest),
        ],
        options={"mip_rel_gap": 0},
    )
    if solved.x is None:
        return None
    chosen = np.flatnonzero(np.round(solved.x))
    starts = np.searchsorted(owners, np.arange(len(layers)))
    return (chosen - starts).tolist()
