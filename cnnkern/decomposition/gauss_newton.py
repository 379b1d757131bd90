"""The Gauss-Newton model of the objective at a point, from R×R matrices alone.

With G_n = A_n'A_n, the block (n, m) of J'J couples the entries (i, r) of A_n and (j, s) of A_m:

    n = m:  P_n[r, s]·δ_ij                        P_n  = element-wise product of all G but G_n
    n ≠ m:  P_nm[r, s]·A_n[i, s]·A_m[j, r]        P_nm = element-wise product of all G but G_n and G_m

so that a product with J'J takes a few matrix products and no Jacobian (Tomasi & Bro 2006; Phan, Tichavsky &
Cichocki 2013; Sorber, Van Barel & De Lathauwer 2013). The block of the first, largest mode is P_1 ⊗ I, cheap
to invert; it is eliminated exactly, which leaves a smaller and better conditioned system for the other modes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .algebra import contract_all_but, khatri_rao
from .objective import Objective, Point, gram_product, penalized

DENSE_LIMIT = 320  # unknowns after the elimination, up to which a dense Cholesky is faster than iterating
FORCING = 0.2  # of the residual's norm at which the conjugate gradients stop
CG_LIMIT = 20


class GaussNewton:
    """Gradient and Gauss-Newton matrix of an objective at a point."""

    def __init__(self, objective: Objective, point: Point, penalty: float) -> None:
        self.dims = objective.dims
        self.penalty = penalty
        self.residual = point.residual
        self.factors = objective.split(point.x)
        self._multiply_grams()
        self._differentiate()

    def _multiply_grams(self) -> None:
        self.grams = [factor.T @ factor for factor in self.factors]
        modes = range(len(self.dims))
        rank = self.factors[0].shape[1]
        self.diagonal_products = [
            penalized(gram_product([self.grams[k] for k in modes if k != n]), self.penalty) for n in modes
        ]
        self.cross_products = self.factors[0].new_zeros(len(self.dims), len(self.dims), rank, rank)
        for n in modes:
            for m in range(n):
                product = gram_product([self.grams[k] for k in modes if k not in (n, m)])
                self.cross_products[n, m] = self.cross_products[m, n] = penalized(product, self.penalty)

    def _differentiate(self) -> None:
        first, second, *small = self.factors
        self.small_product = khatri_rao(small)
        # The residual contracted with the first factor (I_2, I_3·..., R), then with the second (I_3·..., R).
        self.after_first = (self.residual.T @ first).unflatten(0, (self.dims[1], -1))
        self.after_second = (self.after_first * second[:, None, :]).sum(dim=0)
        parts = [
            self.residual @ khatri_rao(self.factors[1:]),
            (self.after_first * self.small_product).sum(dim=1),
        ]
        spread = self.after_second.unflatten(0, self.dims[2:])
        parts += [contract_all_but(spread, small, keep) for keep in range(len(small))]
        if self.penalty:
            share = self.penalty / (1 + self.penalty)
            for part, factor, products in zip(parts, self.factors, self.diagonal_products, strict=True):
                part += share * products.diagonal() * factor
        self.gradient = torch.cat(parts)

    @property
    def scale(self) -> float:
        """The largest diagonal entry of the matrix."""
        return max(products.diagonal().max().item() for products in self.diagonal_products)

    def multiply(self, v: Tensor) -> Tensor:
        """J'J v for v of the point's shape."""
        parts = v.split(self.dims)
        mixed = self._mix(parts, 0)
        rows = zip(parts, self.diagonal_products, self.factors, mixed, strict=True)
        return torch.cat([torch.addmm(part @ products, factor, mix) for part, products, factor, mix in rows])

    def _mix(self, parts: Sequence[Tensor], begin: int) -> list[Tensor]:
        """What the modes from `begin` on, moved by `parts`, do to each mode n: A_n times this (R, R)."""
        moved = {n: part.T @ self.factors[n] for n, part in enumerate(parts, begin)}
        mixed = []
        for n in range(len(self.dims)):
            others = [m for m in moved if m != n]
            total = self.cross_products[n, others[0]] * moved[others[0]]
            for m in others[1:]:
                total.addcmul_(self.cross_products[n, m], moved[m])
            mixed.append(total)
        return mixed

    def step(self, damping: float) -> tuple[Tensor, int]:
        """The (inexact) solution p of (J'J + damping·I) p = −gradient, and the iterations it took."""
        size = self.dims[0]
        first = self.factors[0]
        damped = [products.clone() for products in self.diagonal_products]
        for products in damped:
            products.diagonal().add_(damping)
        inverses = [torch.cholesky_inverse(torch.linalg.cholesky(products)) for products in damped]
        down, gradient = self.gradient[:size], self.gradient[size:]
        back = (down @ inverses[0]).T @ first
        others = zip(self.factors[1:], self.cross_products[1:, 0], strict=True)
        right = torch.cat([factor @ (cross * back) for factor, cross in others]) - gradient
        if right.numel() <= DENSE_LIMIT:
            solution, iterations = self._solve_dense(right, damping, inverses[0]), 1
        else:
            solution, iterations = self._solve_iteratively(right, damped, inverses)
        mixed = self._mix(solution.split(self.dims[1:]), 1)[0]
        return torch.cat([-torch.addmm(down, first, mixed) @ inverses[0], solution]), iterations

    def _solve_iteratively(
        self, right: Tensor, damped: list[Tensor], inverses: list[Tensor]
    ) -> tuple[Tensor, int]:
        """Conjugate gradients on the system without the first mode, preconditioned by the diagonal blocks."""
        rest = self.dims[1:]

        def eliminated(v: Tensor) -> Tensor:
            parts = v.split(rest)
            mixed = self._mix(parts, 1)
            returned = inverses[0] @ mixed[0].T @ self.grams[0]
            for mix, cross in zip(mixed[1:], self.cross_products[1:, 0], strict=True):
                mix.addcmul_(cross, returned, value=-1)
            rows = zip(parts, damped[1:], self.factors[1:], mixed[1:], strict=True)
            return torch.cat(
                [torch.addmm(part @ products, factor, mix) for part, products, factor, mix in rows]
            )

        def precondition(v: Tensor) -> Tensor:
            return torch.cat(
                [part @ inverse for part, inverse in zip(v.split(rest), inverses[1:], strict=True)]
            )

        return conjugate_gradients(eliminated, precondition, right)

    def _solve_dense(self, right: Tensor, damping: float, inverse: Tensor) -> Tensor:
        """Cholesky of the same system written out, unknowns in the order (j, s)."""
        rank = inverse.shape[0]
        others = zip(self.factors[1:], self.cross_products[0, 1:], strict=True)
        crossed = torch.cat([cross[:, None, :] * factor.T[:, :, None] for factor, cross in others], dim=1)
        rows = crossed.shape[1]
        flat = crossed.flatten(1)
        matrix = -(flat.T @ (inverse @ flat)).unflatten(1, (rows, rank)).unflatten(0, (rows, rank))
        matrix *= self.grams[0][:, None, :]
        begin = [sum(self.dims[1:n]) for n in range(1, len(self.dims) + 1)]
        for n in range(1, len(self.dims)):
            here = slice(begin[n - 1], begin[n])
            matrix[here, :, here].diagonal(dim1=0, dim2=2).add_(self.diagonal_products[n][:, :, None])
            for m in range(1, len(self.dims)):
                if m != n:
                    left, above = self.factors[n][:, None, None, :], self.factors[m].T[None, :, :, None]
                    there = slice(begin[m - 1], begin[m])
                    matrix[here, :, there] += self.cross_products[n, m][None, :, None, :] * left * above
        matrix = matrix.flatten(2).flatten(0, 1)
        matrix.diagonal().add_(damping)
        cholesky, failed = torch.linalg.cholesky_ex(matrix)
        if failed:  # rounding ate the damping: the eigenvalues tell which directions are left
            values, vectors = torch.linalg.eigh(matrix)
            return (vectors @ ((vectors.T @ right.reshape(-1)) / values.clamp(min=damping))).view_as(right)
        return torch.cholesky_solve(right.reshape(-1, 1), cholesky).view_as(right)


def conjugate_gradients(
    multiply: Callable[[Tensor], Tensor], precondition: Callable[[Tensor], Tensor], right: Tensor
) -> tuple[Tensor, int]:
    """Solve multiply(x) = right from zero until the residual is FORCING·‖right‖; (x, iterations)."""
    x = torch.zeros_like(right)
    residual = right.clone()
    goal = FORCING * right.norm().item()
    direction = preconditioned = precondition(residual)
    slope = (residual * preconditioned).sum()
    for iteration in range(1, CG_LIMIT + 1):
        image = multiply(direction)
        length = slope / (direction * image).sum()
        x += length * direction
        residual -= length * image
        if not residual.norm().item() > goal:
            return x, iteration
        preconditioned = precondition(residual)
        before, slope = slope, (residual * preconditioned).sum()
        direction = preconditioned + (slope / before) * direction
    return x, CG_LIMIT
