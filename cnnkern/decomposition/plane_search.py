"""The best combination of a few directions, with the curvature that Gauss-Newton leaves out.

The residual of a CP fit of a trained kernel stays large (half of the norm is common), so the Gauss-Newton
matrix alone misjudges the curvature and its steps come out about half as long as they should. The exact
second derivative is dear as a matrix, but along a few directions it costs one product with the residual each.
The step is the minimizer of the exact second-order model over the Gauss-Newton direction and the step before
it (as conjugate gradients would combine them), which reaches a given error in about a third of the
iterations.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .algebra import khatri_rao
from .gauss_newton import GaussNewton

LEAST_CURVATURE = 1e-3  # relative; flatter and downward directions count as this


def best_combination(
    model: GaussNewton, directions: Sequence[Tensor], damping: float
) -> tuple[Tensor, float]:
    """The combination with the lowest damped second-order model, and the decrease it promises."""
    stacked = torch.stack([direction.flatten() for direction in directions])
    images = torch.stack([model.multiply(direction).flatten() for direction in directions])
    hessian = stacked @ images.T + damping * (stacked @ stacked.T) + residual_curvature(model, directions)
    if model.penalty:
        hessian += penalty_curvature(model, directions)
    descent = -(stacked @ model.gradient.flatten())
    size = hessian.diagonal().abs().sqrt().clamp(min=torch.finfo(hessian.dtype).tiny)
    values, vectors = torch.linalg.eigh(hessian / size / size[:, None])
    bounded = values.abs().clamp(min=LEAST_CURVATURE)
    weights = (vectors @ ((vectors.T @ (descent / size)) / bounded)) / size
    promised = (descent @ weights - 0.5 * weights @ hessian @ weights).item()
    return (weights @ stacked).view_as(model.gradient), promised


def residual_curvature(model: GaussNewton, directions: Sequence[Tensor]) -> Tensor:
    """⟨residual, second derivative of the model along each two directions⟩, (n, n).

    The second derivative puts one direction in the place of one factor and the other in the place of another,
    in every way. Contractions with the residual are shared: `after_first` and `after_second` of the model,
    and one more with the first factor moved.
    """
    second = model.factors[1]
    small = model.factors[2:]
    by_second, by_small, seconds, smalls = [], [], [], []
    for direction in directions:
        first_moved, second_moved, *small_moved = direction.split(model.dims)
        small_change = khatri_rao_change(small, small_moved)
        after_moved = (model.residual.T @ first_moved).view_as(model.after_first)
        by_second.append((after_moved * model.small_product + model.after_first * small_change).sum(dim=1))
        by_small.append((after_moved * second[:, None, :]).sum(dim=0))
        seconds.append(second_moved)
        smalls.append((small_change, small_moved))
    curvature = model.gradient.new_zeros(len(directions), len(directions))
    for i in range(len(directions)):
        for j in range(i + 1):
            both_small = khatri_rao_second_change(small, smalls[i][1], smalls[j][1])
            curvature[i, j] = curvature[j, i] = (
                (by_second[i] * seconds[j]).sum()
                + (by_second[j] * seconds[i]).sum()
                + (by_small[i] * smalls[j][0]).sum()
                + (by_small[j] * smalls[i][0]).sum()
                + (model.after_second * both_small).sum()
            )
    return curvature


def penalty_curvature(model: GaussNewton, directions: Sequence[Tensor]) -> Tensor:
    """The same for the penalty, whose residuals are the components themselves: (n, n)."""
    # moved[i, n, r] = ⟨direction i, factor⟩ for column r of mode n
    moved = torch.stack(
        [
            torch.stack(
                [(part * factor).sum(dim=0) for part, factor in zip(parts, model.factors, strict=True)]
            )
            for parts in (direction.split(model.dims) for direction in directions)
        ]
    )
    share = model.penalty / (1 + model.penalty)
    weights = share * model.cross_products.diagonal(dim1=2, dim2=3)
    return torch.einsum("inr,nmr,jmr->ij", moved, weights, moved)


def khatri_rao_change(factors: Sequence[Tensor], moved: Sequence[Tensor]) -> Tensor:
    """Derivative of the Khatri-Rao product along `moved`."""
    return sum(khatri_rao([*factors[:n], moved[n], *factors[n + 1 :]]) for n in range(len(factors)))


def khatri_rao_second_change(
    factors: Sequence[Tensor], moved: Sequence[Tensor], also: Sequence[Tensor]
) -> Tensor:
    """Second derivative of the Khatri-Rao product along `moved` and `also`."""
    total = torch.zeros_like(khatri_rao(factors))
    for n in range(len(factors)):
        for m in range(len(factors)):
            if n != m:
                replaced = list(factors)
                replaced[n], replaced[m] = moved[n], also[m]
                total += khatri_rao(replaced)
    return total
