"""Tucker-2 (Kim et al., ICLR 2016): a 1×1 convolution C→R1, a dense one R1→R2, and a 1×1 convolution R2→K.

    W[k, c, i, j] ≈ Σ_rs factor_k[k, s] core[s, r, i, j] factor_c[r, c]

The bases of the two channel modes start from the Gram matrices of their unfoldings and are refined in turn,
each for the other as it is (higher-order orthogonal iteration, HOOI), which never raises the error.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .arguments import check_weight, integer
from .initialization import gram_basis

MAX_ITER = 50
TOLERANCE = 1e-8  # relative growth of the core's norm per sweep at which the refinement ends


@dataclass(frozen=True, eq=False)
class TuckerFactors:
    """The three parts, in the dtype and on the device of the weight they stand for.

    Attributes:
        factor_c: (R1, C), orthonormal rows. core: (R2, R1, kH, kW). factor_k: (K, R2), orthonormal columns.
        error: ‖reconstruct() − weight‖ / ‖weight‖, Frobenius; 0 for a zero weight.
    """

    factor_c: Tensor
    core: Tensor
    factor_k: Tensor
    error: float

    def reconstruct(self) -> Tensor:
        """The weight (K, C, kH, kW) that the parts stand for; summed in float64."""
        return _assembled(self.factor_c, self.core, self.factor_k).to(self.core.dtype)


def _assembled(factor_c: Tensor, core: Tensor, factor_k: Tensor) -> Tensor:
    return torch.einsum("ks,srij,rc->kcij", factor_k.double(), core.double(), factor_c.double())


@torch.no_grad()
def tucker2(weight: Tensor, ranks: tuple[int, int]) -> TuckerFactors:
    """Compress the channels of a weight (K, C, kH, kW).

    Args:
        weight: floating point, finite, any memory format.
        ranks: (R1, R2), of the input and the output channels; 1 <= R1 <= C and 1 <= R2 <= K.

    Raises TypeError, ValueError or NotImplementedError as `cp` does, and ValueError for ranks out of their
    range.
    """
    check_weight(weight)
    rank_c, rank_k = (integer(f"ranks[{n}]", rank, least=1) for n, rank in enumerate(ranks))
    for n, (rank, size) in enumerate(((rank_c, weight.shape[1]), (rank_k, weight.shape[0]))):
        if rank > size:
            raise ValueError(f"ranks[{n}]: expected at most the {size} channels, got {rank}")
    target = weight.double()
    scale = target.abs().max().item() or 1.0
    target = target / scale
    basis_c = gram_basis(target, 1)[1][:, :rank_c]
    norm = 0.0
    for _ in range(MAX_ITER):
        narrowed = torch.einsum("kcij,cr->krij", target, basis_c)
        basis_k = gram_basis(narrowed, 0)[1][:, :rank_k]
        basis_c = gram_basis(torch.einsum("kcij,ks->scij", target, basis_k), 1)[1][:, :rank_c]
        core = torch.einsum("kcij,ks,cr->srij", target, basis_k, basis_c)
        before, norm = norm, core.norm().item()
        if norm - before <= TOLERANCE * norm:
            break
    parts = [part.to(weight.dtype).contiguous() for part in (basis_c.T, scale * core, basis_k)]
    error = (_assembled(*parts) / scale - target).norm().item() / (target.norm().item() or 1.0)
    return TuckerFactors(*parts, error)
