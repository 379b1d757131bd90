"""The small algebra of sums of rank-one tensors.

A model of an N-way tensor is a list of N factors, factor n of shape (I_n, R): component r is the outer
product of the columns r, and the tensor is the sum of the components. Everything here is a few lines on such
a list.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def khatri_rao(factors: Sequence[Tensor]) -> Tensor:
    """Column-wise Kronecker product, (I_1·...·I_n, R), the last index running fastest."""
    product = factors[0]
    for factor in factors[1:]:
        product = (product[:, None, :] * factor).flatten(0, 1)
    return product


def reconstruct(factors: Sequence[Tensor]) -> Tensor:
    """The tensor (I_1, ..., I_N) that the factors stand for."""
    return (factors[0] @ khatri_rao(factors[1:]).T).reshape([factor.shape[0] for factor in factors])


def component_norms(factors: Sequence[Tensor]) -> Tensor:
    """Frobenius norm of each rank-one component, (R,)."""
    return math.prod(factor.norm(dim=0) for factor in factors)


def balancing_scales(factors: Sequence[Tensor]) -> Tensor:
    """Scales (N, R) that give the columns of a component the same norm in every factor.

    They leave the tensor as it is. A component that vanishes in one factor gets scale zero in all of them.
    """
    norms = torch.stack([factor.norm(dim=0) for factor in factors])
    alive = (norms > 0).all(dim=0)
    safe = torch.where(alive, norms, torch.ones_like(norms))
    return torch.where(alive, safe.log().mean(dim=0).exp() / safe, torch.zeros_like(norms))


def balance(factors: Sequence[Tensor]) -> list[Tensor]:
    """The same components, each with equal norms in all factors."""
    return [factor * scale for factor, scale in zip(factors, balancing_scales(factors), strict=True)]


def cancellation(factors: Sequence[Tensor]) -> float:
    """Σ‖component‖² / ‖Σ components‖²: 1 for orthogonal components, large when they cancel each other."""
    squares = math.prod(factor.T @ factor for factor in factors)
    total = squares.sum().item()
    alone = squares.trace().item()
    if alone == 0:
        return 1.0
    # Rounding leaves nothing of a total below alone·eps, and may leave it negative.
    return alone / max(total, alone * torch.finfo(squares.dtype).eps)


def contract_all_but(tensor: Tensor, factors: Sequence[Tensor], keep: int) -> Tensor:
    """Contract every axis but `keep` of (I_1, ..., I_n, R) with the columns of its factor: (I_keep, R)."""
    for axis in reversed(range(len(factors))):
        if axis != keep:
            shape = [1] * tensor.dim()
            shape[axis], shape[-1] = factors[axis].shape
            tensor = (tensor * factors[axis].reshape(shape)).sum(dim=axis, keepdim=True)
    return tensor.reshape(factors[keep].shape)
