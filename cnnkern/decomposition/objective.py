"""What a fit minimizes, and one evaluated point of it.

    f(x) = ½‖Σ_r component_r − T‖² + ½·penalty·Σ_r ‖component_r‖²

The second term is what keeps components from growing and cancelling each other: the best approximation of a
given rank need not exist, a penalized one always does. A fit lowers the penalty to zero along the way
(`nls.py`), the correction raises it until the error reaches its bound (`correction.py`).

A point is one matrix x of shape (I_1 + ... + I_N, R): the factors below each other, the largest mode first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .algebra import balancing_scales, component_norms, khatri_rao


@dataclass
class Point:
    """Factors, and what was computed from them."""

    x: Tensor  # (ΣI_n, R)
    residual: Tensor  # (I_1, I_2·...·I_N), model minus tensor
    misfit: float  # ‖residual‖²
    magnitude: float  # Σ_r ‖component_r‖²

    def value(self, penalty: float) -> float:
        """The objective here."""
        return 0.5 * (self.misfit + penalty * self.magnitude)

    @property
    def error(self) -> float:
        """‖residual‖."""
        return self.misfit**0.5


class Objective:
    """The objective for one tensor with three modes or more."""

    def __init__(self, tensor: Tensor) -> None:
        self.dims = tuple(tensor.shape)
        self.unfolding = tensor.reshape(self.dims[0], -1)

    def split(self, x: Tensor) -> list[Tensor]:
        """The factors of a stacked point, as views."""
        return list(x.split(self.dims))

    def balancing(self, x: Tensor) -> Tensor:
        """Scales of x's shape that balance its components (see `algebra.balancing_scales`)."""
        scales = balancing_scales(self.split(x))
        return torch.cat([scale.expand(size, -1) for scale, size in zip(scales, self.dims, strict=True)])

    def evaluate(self, x: Tensor) -> Point:
        """The residual and both parts of the objective at x."""
        factors = self.split(x)
        residual = torch.addmm(self.unfolding, factors[0], khatri_rao(factors[1:]).T, beta=-1)
        misfit = residual.square().sum().item()
        return Point(x, residual, misfit, component_norms(factors).square().sum().item())

    def improve_first_mode(self, x: Tensor, anchor: Tensor, penalty: float, damping: float) -> Tensor | None:
        """x with the best first factor for its other factors, damped towards the one of `anchor`.

        A linear least-squares problem. None when its matrix is not positive definite in the arithmetic.
        """
        size = self.dims[0]
        others = self.split(x)[1:]
        products = penalized(gram_product([factor.T @ factor for factor in others]), penalty)
        products.diagonal().add_(damping)
        cholesky, failed = torch.linalg.cholesky_ex(products)
        if failed:
            return None
        target = torch.addmm(anchor[:size], self.unfolding, khatri_rao(others), beta=damping)
        return torch.cat([torch.cholesky_solve(target.T, cholesky).T, x[size:]])


def gram_product(grams: Sequence[Tensor]) -> Tensor:
    """Element-wise product of Gram matrices, that of the Khatri-Rao product: (R, R), always new."""
    product = grams[0].clone()
    for gram in grams[1:]:
        product *= gram
    return product


def penalized(products: Tensor, penalty: float) -> Tensor:
    """Add penalty·diagonal to a product of Gram matrices, in place.

    The penalty is a sum of squares too, of the components themselves. Its Gauss-Newton matrix is that of the
    misfit with all that couples two different components left out: the same products, and only their
    diagonals.
    """
    products.diagonal(dim1=-2, dim2=-1).mul_(1 + penalty)
    return products
