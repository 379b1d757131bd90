"""Error-preserving correction of degenerate fits (Phan et al., ECCV 2020).

The best approximation of a given rank need not exist: a fit may lower its error for ever by components that
grow and cancel each other. A convolution made of such components loses digits, and training it diverges. The
correction looks for the factors with the least Σ‖component‖² among those whose error is at most TOLERANCE
times that of the fit.

Phan et al. solve this by alternating or sequential quadratic steps; here it is the penalized problem of
`objective.py`, whose penalty is the multiplier of that constraint: it is raised while the error is under the
bound and lowered while it is above, by ever smaller factors, as the damped Gauss-Newton descent goes on.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .algebra import cancellation
from .descent import Descent
from .objective import Objective
from .progress import Progress

DEGENERATE = (
    10.0  # Σ‖component‖² over ‖Σ components‖² from which on components count as cancelling each other
)
TOLERANCE = 1.01  # how much of the fit's error the correction may reach
NOTHING_TO_TRADE = 1e-7  # relative error under which a fit is exact for any use, and stays as it is
MAX_ITER = 60
PATIENCE = 8  # iterations without a gain of LEAST_GAIN, after which it ends
LEAST_GAIN = 1e-2


def is_degenerate(factors: list[Tensor], error: float) -> bool:
    """Whether a fit of this relative error has components that cancel each other."""
    return error > NOTHING_TO_TRADE and cancellation(factors) > DEGENERATE


def correct(tensor: Tensor, factors: list[Tensor], progress: Progress) -> tuple[list[Tensor], int]:
    """Factors with smaller components and at most TOLERANCE times the error, and the iterations it took.

    The tensor has norm 1 and three modes or more, the largest first. The factors come back as they are when
    nothing better was found.
    """
    objective = Objective(tensor)
    best = objective.evaluate(torch.cat(factors))
    bound = TOLERANCE * best.error
    penalty, growth = 1e-2 * best.misfit, 3.0
    descent = Descent(objective, best.x)
    waited, was_inside, iteration = 0, True, 0
    progress.extend(MAX_ITER)
    while iteration < MAX_ITER and waited < PATIENCE and not descent.finished:
        descent.step(penalty)
        iteration += 1
        progress.advance(descent.error)
        inside = descent.error <= bound
        waited += 1
        if inside and descent.point.magnitude < best.magnitude:
            waited = 0 if descent.point.magnitude < (1 - LEAST_GAIN) * best.magnitude else waited
            best = descent.point
        if inside != was_inside:
            growth = max(growth**0.6, 1.02)
        was_inside = inside
        penalty = penalty * growth if inside else penalty / growth
    return objective.split(best.x), iteration
