"""One damped Gauss-Newton iteration after another.

The damping is that of Levenberg and Marquardt on balanced factors, steered like a trust region by the ratio
of the decrease that came to the one that was promised (Nielsen 1999). The penalty may change between steps.
"""

from __future__ import annotations

import math

from torch import Tensor

from .gauss_newton import GaussNewton
from .objective import Objective, Point
from .plane_search import best_combination

FIRST_DAMPING = 1e-2  # relative to the largest diagonal entry of the Gauss-Newton matrix, like the next
LEAST_DAMPING = 1e-10
MOST_REJECTED = 14  # one after the other, before the descent counts as finished


class Descent:
    """A point, and what the next step needs to know of the last one."""

    def __init__(self, objective: Objective, x: Tensor) -> None:
        self.objective = objective
        self.point = objective.evaluate(x * objective.balancing(x))
        self.damping: float | None = None
        self.rejected = 0
        self._previous: Tensor | None = None
        self._model: GaussNewton | None = None

    @property
    def error(self) -> float:
        """‖residual‖ at the current point."""
        return self.point.error

    @property
    def finished(self) -> bool:
        """No step of any length lowered the objective."""
        return self.rejected >= MOST_REJECTED

    def step(self, penalty: float) -> bool:
        """One iteration at this penalty; whether the point moved."""
        model = self._model_at(penalty)
        direction = model.step(self.damping)[0]
        directions = [direction] if self._previous is None else [direction, self._previous]
        move, promised = best_combination(model, directions, self.damping)
        candidate = self._candidate(move, penalty)
        if candidate is None or not promised > 0:
            return self._reject()
        ratio = (self.point.value(penalty) - candidate.value(penalty)) / promised
        if not (math.isfinite(ratio) and ratio > 1e-4):
            return self._reject()
        self._accept(candidate, ratio)
        return True

    def _model_at(self, penalty: float) -> GaussNewton:
        if self._model is None or penalty != self._model.penalty:
            self._model = GaussNewton(self.objective, self.point, penalty)
            scale = self._model.scale
            first = self.damping is None
            self.damping = FIRST_DAMPING * scale if first else max(self.damping, LEAST_DAMPING * scale)
        return self._model

    def _candidate(self, move: Tensor, penalty: float) -> Point | None:
        old = self.point.x
        x = self.objective.improve_first_mode(old + move, old, penalty, self.damping)
        return None if x is None else self.objective.evaluate(x)

    def _accept(self, candidate: Point, ratio: float) -> None:
        scales = self.objective.balancing(candidate.x)
        self._previous = (candidate.x - self.point.x) * scales
        candidate.x = candidate.x * scales
        self.point, self._model = candidate, None
        self.rejected = 0
        self.damping *= max(1 / 3, 1 - (2 * min(ratio, 1.0) - 1) ** 3)

    def _reject(self) -> bool:
        self._previous = None
        self.rejected += 1
        self.damping *= 2.0**self.rejected
        return False
