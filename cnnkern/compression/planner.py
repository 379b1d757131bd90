"""One option for each layer: a knapsack with a choice per layer, solved exactly as an integer program."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

ROUNDING = 1e-9  # of sums


@dataclass(frozen=True)
class Option:
    """What a layer may become: its seconds, and what it adds to the loss by itself, at least 0."""

    seconds: float
    loss: float


@dataclass(frozen=True)
class Bond:
    """Options that save `seconds` more where all of them are taken: {the layer's index: the option's}."""

    options: Mapping[int, int]
    seconds: float


@dataclass(frozen=True)
class Knapsack:
    """The options of each layer, of which a plan takes one: a list of their indices."""

    layers: Sequence[Sequence[Option]]
    bonds: Sequence[Bond] = ()

    def least_loss(self, seconds: float) -> list[int] | None:
        """The plan with the least sum of losses that takes `seconds` at most, and of several the fastest.

        None where even the fastest one takes longer.
        """
        plan = self._solve(self._losses(), self._seconds(), seconds)
        return plan and self._solve(self._seconds(), self._losses(), _above(self.total(plan).loss))

    def least_seconds(self, loss: float = math.inf) -> list[int] | None:
        """The fastest plan whose losses add up to `loss` at most, and of several the one that loses least."""
        plan = self._solve(self._seconds(), self._losses(), loss)
        return plan and self._solve(self._losses(), self._seconds(), _above(self.total(plan).seconds))

    def total(self, plan: Sequence[int]) -> Option:
        """What a plan takes and loses by the estimate."""
        chosen = [layer[index] for layer, index in zip(self.layers, plan, strict=True)]
        saved = sum(bond.seconds for bond in self.kept(plan))
        return Option(sum(o.seconds for o in chosen) - saved, sum(o.loss for o in chosen))

    def kept(self, plan: Sequence[int]) -> list[Bond]:
        """The bonds of which a plan takes all options."""
        return [bond for bond in self.bonds if all(plan[i] == o for i, o in bond.options.items())]

    def front(self, steps: int) -> list[Option]:
        """The least loss for `steps` times between the fastest plan and the slowest, by the estimate."""
        if not self.layers:
            return [Option(0, 0)]
        fastest = self.total(self.least_seconds()).seconds
        slowest = sum(max(option.seconds for option in layer) for layer in self.layers)
        points = []
        for step in range(steps):
            seconds = fastest + (slowest - fastest) * step / max(1, steps - 1)
            plan = self.least_loss(seconds + 1e-9 * slowest)
            if plan is not None and self.total(plan) not in points:
                points.append(self.total(plan))
        return points

    def _seconds(self) -> list[float]:
        return [*(o.seconds for layer in self.layers for o in layer), *(-bond.seconds for bond in self.bonds)]

    def _losses(self) -> list[float]:
        return [*(o.loss for layer in self.layers for o in layer), *(0.0 for _ in self.bonds)]

    def _solve(self, cost: Sequence[float], weight: Sequence[float], most: float) -> list[int] | None:
        """Binary x with one option a layer, least cost·x, weight·x <= most; both are scaled to about 1.

        The last ones say which bonds are kept: each at most as much as any of its options.
        """
        if not self.layers:
            return []
        if any(not math.isfinite(value) for value in (*cost, *weight)):
            raise ValueError("options: expected finite times and losses")
        starts = np.cumsum([0, *(len(layer) for layer in self.layers)])
        one_each = np.zeros((len(self.layers), len(cost)))
        for row, begin, end in zip(one_each, starts[:-1], starts[1:], strict=True):
            row[begin:end] = 1
        largest = max(map(abs, weight)) or 1.0
        cost, weight = np.asarray(cost) / (max(map(abs, cost)) or 1.0), np.asarray(weight) / largest
        solved = milp(
            cost,
            integrality=np.ones(len(cost)),
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(one_each, 1, 1),
                LinearConstraint(weight[None], -np.inf, most / largest),
                *self._bound(starts),
            ],
            options={"mip_rel_gap": 0},
        )
        if solved.x is None:
            return None
        chosen = np.flatnonzero(np.round(solved.x[: starts[-1]]))
        return (chosen - starts[:-1]).tolist()

    def _bound(self, starts: np.ndarray) -> list[LinearConstraint]:
        """bond <= option, for each option of each bond."""
        rows = []
        for index, bond in enumerate(self.bonds, start=starts[-1]):
            for layer, option in bond.options.items():
                rows.append(np.zeros(starts[-1] + len(self.bonds)))
                rows[-1][[index, starts[layer] + option]] = 1, -1
        return [LinearConstraint(np.array(rows), -np.inf, 0)] if rows else []


def _above(total: float) -> float:
    """A limit that keeps what adds up to `total`, whatever the order."""
    return total + ROUNDING * abs(total)
