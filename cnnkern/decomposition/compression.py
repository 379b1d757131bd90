"""Tucker compression: the same tensor in fewer coordinates, where the first iterations of a fit are cheap.

A CP of rank R lives in a subspace of at most R dimensions per mode, so a mode longer than R is projected on
the R leading eigenvectors of the Gram matrix of its unfolding (fewer where the tensor itself needs fewer).
What the projection loses, the iterations on the full tensor bring back.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .initialization import gram_basis

NEGLIGIBLE = 1e-13  # share of the energy of a mode that may be dropped whatever the rank


def compress(tensor: Tensor, rank: int) -> tuple[Tensor, list[Tensor | None]]:
    """The core, and per mode its orthonormal basis (I_n, smaller), or None where the mode stays as it is."""
    core = tensor
    bases: list[Tensor | None] = []
    for mode, size in enumerate(tensor.shape):
        values, vectors = gram_basis(core, mode)
        needed = int((values > NEGLIGIBLE * values.sum()).sum())
        kept = max(1, min(rank, needed))
        basis = vectors[:, :kept].contiguous() if kept < size else None
        if basis is not None:
            core = torch.tensordot(core, basis, dims=([mode], [0])).movedim(-1, mode)
        bases.append(basis)
    return core.contiguous(), bases


def expand(factors: list[Tensor], bases: list[Tensor | None]) -> list[Tensor]:
    """Factors of the core as factors of the tensor."""
    return [factor if basis is None else basis @ factor for factor, basis in zip(factors, bases, strict=True)]
