"""Ranks and shapes where no iteration is needed."""

from __future__ import annotations

import torch
from torch import Tensor

from .fit import Fit
from .initialization import largest_exact_rank, orthogonal_terms


def fit(tensor: Tensor, rank: int) -> Fit | None:
    """The exact or optimal factors, or None where it takes a fit. Two modes or more, the largest first.

    A matrix has its optimum in the SVD. A tensor of which as many terms are asked as any tensor of its sizes
    needs is the sum of its orthogonal terms. Components that are not needed are zero.
    """
    if tensor.dim() == 2:
        left, values, right = torch.linalg.svd(tensor, full_matrices=False)
        factors = [left * values, right.T]
        missing = rank - values.numel()
        factors = [torch.nn.functional.pad(factor, (0, missing)) for factor in factors]
        return Fit(factors, "singular value decomposition", "optimal", [])
    if rank >= largest_exact_rank(tuple(tensor.shape)):
        return Fit(orthogonal_terms(tensor, rank), "orthogonal terms", "exact", [])
    return None
