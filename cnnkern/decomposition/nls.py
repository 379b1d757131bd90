"""CP by nonlinear least squares: damped Gauss-Newton along a path of falling penalties.

The fit begins with a penalty on the norms of the components (`objective.py`) that makes the problem tame, and
lowers it step by step to zero. On the path the components cannot run away and cancel each other, and the
point that it leads to is better than what the same number of unpenalized iterations reach, and depends less
on the start.

Stages: several starts, on the Tucker-compressed tensor, a few iterations each; the best of them a little
further on the compressed tensor; and then on the full one, the penalty falling to zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .compression import compress, expand
from .descent import Descent
from .fit import Fit
from .initialization import starts
from .objective import Objective
from .progress import Progress

FIRST_PENALTY = 1e-1  # relative to ‖tensor‖²; the path falls to the next one by equal factors, then to zero
LAST_PENALTY = 1e-5
# Iterations of the stages; shorter in proportion where fewer than PACE are granted in all.
PACE = 100
PATH_LENGTH = 60
TRIAL_LENGTH = 15
COMPRESSED_LENGTH = 30
WINDOW = 10  # iterations over which the decrease of the error is averaged
EXACT = 1e-14
# Below this error the tensor may well have the rank that is asked for: the swamps on the way there are worth
# crossing, and the decrease at which the fit stops shrinks with the error.
NEARLY_EXACT = 0.1


def penalty_at(iteration: int, max_iter: int) -> float:
    """The penalty of an iteration, counted from 0."""
    length = _scaled(PATH_LENGTH, max_iter)
    if iteration >= length:
        return 0.0
    return FIRST_PENALTY * (LAST_PENALTY / FIRST_PENALTY) ** (iteration / length)


def _scaled(length: int, max_iter: int) -> int:
    return max(1, round(length * min(1.0, max_iter / PACE)))


def fit(
    tensor: Tensor, rank: int, generator: torch.Generator, max_iter: int, tol: float, progress: Progress
) -> Fit:
    """Fit a tensor of norm 1 with three modes or more, the largest first.

    `max_iter` counts the iterations of the winning start; the others take TRIAL_LENGTH each. The fit stops
    earlier when, with the penalty gone, the error falls by less than `tol` (relative) per iteration.
    """
    core, bases = compress(tensor, rank)
    trial, compressed_until = _scaled(TRIAL_LENGTH, max_iter), _scaled(COMPRESSED_LENGTH, max_iter)
    objective = Objective(core)
    candidates = starts(core, rank, generator)
    progress.extend((len(candidates) - 1) * trial)
    trials = {}
    for name, factors in candidates.items():
        descent = Descent(objective, torch.cat(factors))
        trials[name] = descent, _iterate(descent, range(trial), max_iter, tol, progress)[0]
    last = penalty_at(trial - 1, max_iter)
    start = min(trials, key=lambda name: trials[name][0].point.value(last))
    descent, errors = trials[start]
    if any(basis is not None for basis in bases):
        errors += _iterate(descent, range(trial, compressed_until), max_iter, tol, progress)[0]
        factors = expand(objective.split(descent.point.x), bases)
        objective = Objective(tensor)
        descent = Descent(objective, torch.cat(factors))
        begin = compressed_until
    else:
        begin = trial
    more, stopped = _iterate(descent, range(begin, max_iter), max_iter, tol, progress)
    return Fit(objective.split(descent.point.x), start, stopped, errors + more)


def _iterate(
    descent: Descent, iterations: range, max_iter: int, tol: float, progress: Progress
) -> tuple[list[float], str]:
    """Run these iterations of the path; the error after each, and why they ended."""
    errors: list[float] = []
    unpenalized: list[float] = []
    for iteration in iterations:
        penalty = penalty_at(iteration, max_iter)
        descent.step(penalty)
        errors.append(descent.error)
        progress.advance(descent.error)
        if descent.error <= EXACT:
            return errors, "exact"
        if descent.finished:
            return errors, "no further decrease"
        if penalty == 0.0:
            unpenalized.append(descent.error)
            if _has_converged(unpenalized, tol):
                return errors, "converged"
    return errors, "max_iter"


def _has_converged(errors: list[float], tol: float) -> bool:
    if len(errors) <= WINDOW:
        return False
    decrease = (errors[-WINDOW - 1] / errors[-1] - 1) / WINDOW
    return decrease < tol * min(1.0, errors[-1] / NEARLY_EXACT)
