"""Where a fit starts: from the tensor's own orthogonal terms, or at random.

The orthogonal terms are a higher-order SVD refined per slice. The modes after the first two get the
eigenvectors of the Gram matrices of their unfoldings as a basis; in that basis each slice is a matrix I_1 ×
I_2, a sum of orthogonal rank-one matrices; and all these terms together are the tensor itself, as orthogonal
rank-one components. The largest R of them are the start. Gram matrices of single modes and slices are all
that is ever decomposed: an SVD of an unfolding asks for terabytes where a kernel has 512 channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# More starts where they are cheap: as many as this number of unknowns divides into, within the bounds.
START_BUDGET = 20_000
LEAST_RANDOM, MOST_RANDOM = 2, 5


def gram_basis(tensor: Tensor, mode: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues (descending) and eigenvectors (I, I) of the Gram matrix of an unfolding."""
    unfolding = tensor.movedim(mode, 0).flatten(1)
    values, vectors = torch.linalg.eigh(unfolding @ unfolding.T)
    return values.flip(0), vectors.flip(1)


def largest_exact_rank(dims: tuple[int, ...]) -> int:
    """No tensor of these sizes needs more rank-one components than this."""
    return math.prod(dims) // max(dims)


def orthogonal_terms(tensor: Tensor, rank: int) -> list[Tensor]:
    """Factors of the `rank` largest orthogonal terms of a tensor whose first two modes are its largest.

    With a rank of `largest_exact_rank` they are the tensor; missing terms are filled up with zeros.
    """
    small = range(2, tensor.dim())
    bases = [gram_basis(tensor, mode)[1] for mode in small]
    slices = tensor
    for mode, basis in zip(small, bases, strict=True):
        slices = torch.tensordot(slices, basis, dims=([mode], [0])).movedim(-1, mode)
    slices = slices.flatten(2).permute(2, 0, 1)
    _, right = torch.linalg.eigh(slices.mT @ slices)
    left = slices @ right
    strength = left.norm(dim=1)
    chosen = strength.flatten().argsort(descending=True, stable=True)[:rank]
    which, column = chosen // strength.shape[1], chosen % strength.shape[1]
    factors = [left[which, :, column].T, right[which, :, column].T]
    for basis, index in zip(bases, _unravel(which, [basis.shape[0] for basis in bases]), strict=True):
        factors.append(basis[:, index])
    missing = rank - chosen.numel()
    return [torch.nn.functional.pad(factor, (0, missing)) for factor in factors]


def _unravel(index: Tensor, sizes: list[int]) -> list[Tensor]:
    parts = []
    for size in reversed(sizes):
        parts.append(index % size)
        index = index // size
    return parts[::-1]


def random_factors(tensor: Tensor, rank: int, generator: torch.Generator) -> list[Tensor]:
    """Gaussian factors whose sum has the norm of the tensor. Drawn on the CPU: the same for every device."""
    factors = [
        torch.randn(size, rank, generator=generator, dtype=tensor.dtype).to(tensor.device)
        for size in tensor.shape
    ]
    squares = math.prod(factor.T @ factor for factor in factors).sum()
    scale = (tensor.norm() / squares.clamp(min=0).sqrt().clamp(min=1e-100)) ** (1 / tensor.dim())
    return [factor * scale for factor in factors]


def starts(tensor: Tensor, rank: int, generator: torch.Generator) -> dict[str, list[Tensor]]:
    """The starting factors that a method tries, by name."""
    candidates = {"orthogonal terms": orthogonal_terms(tensor, rank)}
    unknowns = rank * sum(tensor.shape)
    for number in range(1, max(LEAST_RANDOM, min(MOST_RANDOM, START_BUDGET // unknowns)) + 1):
        candidates[f"random {number}"] = random_factors(tensor, rank, generator)
    return candidates
