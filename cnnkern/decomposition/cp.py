"""CP decomposition of a convolution's weight (Lebedev et al. 2015): the front door of all methods.

    W[k, c, i, j] ≈ Σ_r factor_k[k, r] factor_c[r, c] factor_h[r, i] factor_w[r, j]

The methods work on a tensor of norm 1 in float64, without the modes of size 1 and with the largest mode
first; this file checks the arguments, prepares that tensor, and turns what comes back into factors of the
weight.
"""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from . import als, exact, greedy, nls
from .algebra import balance, cancellation, component_norms, reconstruct
from .arguments import check_weight, integer
from .correction import DEGENERATE, correct, is_degenerate
from .fit import Fit
from .initialization import largest_exact_rank
from .progress import Progress


@dataclass(frozen=True)
class Method:
    """A way to fit, with its defaults."""

    fit: Callable[..., Fit]
    max_iter: int
    tol: float


METHODS = {
    "nls": Method(nls.fit, max_iter=200, tol=5e-5),
    "als": Method(als.fit, max_iter=500, tol=1e-8),
    "greedy": Method(greedy.fit, max_iter=50, tol=1e-6),
}


@dataclass(frozen=True)
class FitHistory:
    """What a fit did.

    Attributes:
        method: the name it was asked by.
        start: what the factors started from.
        stopped: why it ended: "exact", "optimal", "converged", "no further decrease", "max_iter", ...
        errors: the relative error after each iteration (after each term for "greedy"), before the correction.
        fit_error: the relative error before the correction.
        degenerate: whether components cancelled each other.
        correction_iterations: what the correction took; 0 where it was not needed or not wanted.
        norms_before, norms_after: the norms of the R components before and after the correction.
    """

    method: str
    start: str
    stopped: str
    errors: tuple[float, ...]
    fit_error: float
    degenerate: bool
    correction_iterations: int
    norms_before: tuple[float, ...]
    norms_after: tuple[float, ...]

    @property
    def iterations(self) -> int:
        """Iterations of the fit."""
        return len(self.errors)


@dataclass(frozen=True, eq=False)
class CPFactors:
    """The four factors of a weight, in its dtype and on its device.

    Attributes:
        factor_c: (R, C). factor_h: (R, kH). factor_w: (R, kW). factor_k: (K, R).
        error: ‖reconstruct() − weight‖ / ‖weight‖, Frobenius; 0 for a zero weight.
        history: what the fit did.
    """

    factor_c: Tensor
    factor_h: Tensor
    factor_w: Tensor
    factor_k: Tensor
    error: float
    history: FitHistory

    @property
    def rank(self) -> int:
        """The number of components, R."""
        return self.factor_c.shape[0]

    def reconstruct(self) -> Tensor:
        """The weight (K, C, kH, kW) that the factors stand for; summed in float64."""
        factors = [self.factor_k, self.factor_c.T, self.factor_h.T, self.factor_w.T]
        return reconstruct([factor.double() for factor in factors]).to(self.factor_k.dtype)


@torch.no_grad()
def cp(
    weight: Tensor,
    rank: int,
    *,
    method: str = "nls",
    seed: int = 0,
    max_iter: int | None = None,
    tol: float | None = None,
    verbose: bool | None = None,
    correction: bool = True,
) -> CPFactors:
    """Approximate the weight of a convolution by `rank` rank-one components.

    Args:
        weight: (K, C, kH, kW), floating point, finite; any memory format, on the CPU or a CUDA device. For a
            grouped convolution, decompose the weight of each group.
        rank: number of components, R >= 1.
        method: "nls", damped Gauss-Newton (the best errors); "als", alternating least squares by tensorly;
            "greedy", one rank-one term at a time (Denton et al. 2014).
        seed: of the random starts. The same seed gives the same factors.
        max_iter: iterations of "nls" (default 200), sweeps of "als" (500), sweeps per term of "greedy" (50).
        tol: relative decrease of the error per iteration at which "nls" stops (default 5e-5), absolute
            decrease per sweep for "als" (1e-8), relative growth of a term per sweep for "greedy" (1e-6).
        verbose: True shows a progress bar, None only when the fit takes more than a few seconds, False never.
        correction: replace a degenerate fit, whose components cancel each other, by the one with the smallest
            components among those whose error is at most 1.01 times as large (Phan et al. 2020).

    Returns:
        The factors, fitted in float64 whatever the dtype of the weight, with balanced norms within each
        component.

    Raises:
        TypeError: weight is no tensor, or rank, max_iter or seed no integer.
        ValueError: another number of dimensions than four, an empty weight, a value that is not finite, or an
            argument out of its range.
        NotImplementedError: a dtype or a device that we do not have.

    A rank above what any weight of this shape needs gives an exact result with a warning; the rest of its
    components is zero. So is a zero weight's every component.
    """
    rank = _checked(weight, rank, method, seed, max_iter, tol)
    chosen = METHODS[method]
    max_iter = chosen.max_iter if max_iter is None else operator.index(max_iter)
    tol = chosen.tol if tol is None else float(tol)
    problem = _Problem.of(weight)
    tensor = problem.tensor
    if not tensor.any():
        zeros = [tensor.new_zeros(size, rank) for size in tensor.shape]
        return _finished(weight, problem, method, Fit(zeros, "zero weight", "exact", []), None)
    with Progress(f"CP rank {rank}", rank if method == "greedy" else max_iter, verbose) as progress:
        fit = exact.fit(tensor, rank)
        if fit is None:
            generator = torch.Generator().manual_seed(seed)
            fit = chosen.fit(tensor, rank, generator, max_iter, tol, progress)
        corrected = (
            correct(tensor, fit.factors, progress) if correction and _degenerate(tensor, fit) else None
        )
    if corrected is not None and cancellation(corrected[0]) > 10 * DEGENERATE:
        warnings.warn(
            f"the components of this rank-{rank} fit cancel each other, and none with as small an error "
            f"that do not were found; their squared norms are "
            f"{cancellation(corrected[0]):.3g} times that of their sum",
            stacklevel=2,
        )
    return _finished(weight, problem, method, fit, corrected)


def _checked(
    weight: Tensor, rank: int, method: str, seed: int, max_iter: int | None, tol: float | None
) -> int:
    check_weight(weight)
    rank = integer("rank", rank, least=1)
    integer("seed", seed)
    if max_iter is not None:
        integer("max_iter", max_iter, least=1)
    if tol is not None and not 0 <= tol < math.inf:
        raise ValueError(f"tol: expected a finite number of at least 0, got {tol}")
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    enough = largest_exact_rank(tuple(weight.shape))
    if rank > enough:
        warnings.warn(
            f"rank {rank} is more than any {tuple(weight.shape)} weight needs ({enough}): the result is "
            f"exact, and {rank - enough} components or more are zero",
            stacklevel=3,
        )
    return rank


@dataclass(frozen=True)
class _Problem:
    """The tensor of norm 1 that is fitted; the weight is `largest`·`norm` times it, modes reordered."""

    tensor: Tensor
    order: list[int]  # the mode of the weight that each mode of the tensor is
    largest: float
    norm: float

    @classmethod
    def of(cls, weight: Tensor) -> _Problem:
        """Leave out modes of size 1 while more than two are left, sort by falling size, and normalize."""
        by_size = sorted(range(4), key=lambda mode: -weight.shape[mode])
        order = [mode for position, mode in enumerate(by_size) if position < 2 or weight.shape[mode] > 1]
        left_out = [mode for mode in by_size if mode not in order]
        tensor = weight.double().permute(order + left_out).reshape([weight.shape[mode] for mode in order])
        # In two steps: the square of a large weight may be infinite.
        largest = tensor.abs().max().item() or 1.0
        tensor = tensor / largest
        norm = tensor.norm().item() or 1.0
        return cls((tensor / norm).contiguous(), order, largest, norm)

    def of_weight(self, factors: list[Tensor]) -> list[Tensor]:
        """Balanced factors of the weight, in the order of its modes."""
        root = (self.largest**0.25) * (self.norm**0.25)
        whole = [factors[0].new_ones(1, factors[0].shape[1]) for _ in range(4)]
        for mode, factor in zip(self.order, factors, strict=True):
            whole[mode] = factor
        return [root * factor for factor in balance(whole)]

    def relative_error(self, weight: Tensor, factors: list[Tensor]) -> float:
        """‖Σ components − weight‖ / ‖weight‖ for factors of the weight."""
        root = (self.largest**0.25) * (self.norm**0.25)
        target = weight.double() / self.largest / self.norm
        return (reconstruct([factor.double() / root for factor in factors]) - target).norm().item()


def _degenerate(tensor: Tensor, fit: Fit) -> bool:
    if tensor.dim() < 3:
        return False
    return is_degenerate(fit.factors, (reconstruct(fit.factors) - tensor).norm().item())


def _finished(
    weight: Tensor, problem: _Problem, method: str, fit: Fit, corrected: tuple[list[Tensor], int] | None
) -> CPFactors:
    before = problem.of_weight(fit.factors)
    after = before if corrected is None else problem.of_weight(corrected[0])
    k, c, h, w = rounded = [factor.to(weight.dtype) for factor in after]
    history = FitHistory(
        method=method,
        start=fit.start,
        stopped=fit.stopped,
        errors=tuple(fit.errors),
        fit_error=problem.relative_error(weight, before),
        degenerate=_degenerate(problem.tensor, fit),
        correction_iterations=0 if corrected is None else corrected[1],
        norms_before=tuple(component_norms(before).tolist()),
        norms_after=tuple(component_norms(after).tolist()),
    )
    error = problem.relative_error(weight, rounded)
    return CPFactors(c.T.contiguous(), h.T.contiguous(), w.T.contiguous(), k.contiguous(), error, history)
