"""CP by alternating least squares: tensorly's `parafac`, from the starts that the other method has too.

Its own start by SVD asks for all singular vectors of an unfolding when the rank exceeds a mode, which it
always does for the modes of a kernel: terabytes for 512 channels. Starts are therefore handed in.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .fit import Fit
from .initialization import starts
from .progress import Progress

TRIAL_SWEEPS = 15


def fit(
    tensor: Tensor, rank: int, generator: torch.Generator, max_iter: int, tol: float, progress: Progress
) -> Fit:
    """Fit a tensor of norm 1 with three modes or more, the largest first, in at most `max_iter` sweeps.

    Stops earlier when a sweep lowers the error by less than `tol`.
    """
    trial = min(TRIAL_SWEEPS, max_iter)
    candidates = starts(tensor, rank, generator)
    progress.extend((len(candidates) - 1) * trial)
    trials = {name: _sweep(tensor, factors, trial, tol, progress) for name, factors in candidates.items()}
    start = min(trials, key=lambda name: trials[name].errors[-1])
    begun = trials[start]
    if trial == max_iter or begun.stopped != "max_iter":
        return Fit(begun.factors, start, begun.stopped, begun.errors)
    rest = _sweep(tensor, begun.factors, max_iter - trial, tol, progress)
    return Fit(rest.factors, start, rest.stopped, begun.errors + rest.errors)


def _sweep(tensor: Tensor, factors: list[Tensor], sweeps: int, tol: float, progress: Progress) -> Fit:
    """Sweeps of `parafac`; the last finite iterate when its linear systems become singular."""
    import numpy
    import tensorly
    from tensorly.decomposition import parafac

    best = Fit(factors, "", "singular", [math.inf])
    errors: list[float] = []

    def keep(iterate: tensorly.cp_tensor.CPTensor, error: float) -> bool:
        if not math.isfinite(error):
            return True
        weights, arrays = iterate
        best.factors = [torch.from_numpy(array).to(tensor) for array in arrays]
        best.factors[0] = best.factors[0] * torch.from_numpy(weights).to(tensor)
        errors.append(float(error))
        if len(errors) > 1:
            progress.advance(errors[-1])
        return False

    with tensorly.backend_context("numpy", local_threadsafe=True):
        try:
            parafac(
                tensor.cpu().numpy(),
                factors[0].shape[1],
                n_iter_max=sweeps,
                init=(None, [factor.cpu().numpy() for factor in factors]),
                tol=max(tol, 1e-15),
                callback=keep,
            )
            best.stopped = "converged" if len(errors) <= sweeps else "max_iter"
        except numpy.linalg.LinAlgError:
            pass
    best.errors = errors[1:] or errors  # the first is that of the start
    return best
