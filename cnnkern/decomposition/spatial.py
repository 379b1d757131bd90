"""Two-component factorization (Jaderberg, Vedaldi & Zisserman 2014): a d×1 convolution, then a 1×d one.

    W[k, c, i, j] ≈ Σ_r horizontal[k, r, 0, j] vertical[r, c, i, 0]

The best one is the truncated SVD of the matrix (K·kW) × (C·kH).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .arguments import check_weight, integer


@dataclass(frozen=True, eq=False)
class SpatialFactors:
    """Weights of the two convolutions, in the dtype and on the device of the weight they stand for.

    Attributes:
        vertical: (R, C, kH, 1), the first convolution. horizontal: (K, R, 1, kW), the second.
        error: ‖reconstruct() − weight‖ / ‖weight‖, Frobenius; 0 for a zero weight.
    """

    vertical: Tensor
    horizontal: Tensor
    error: float

    @property
    def rank(self) -> int:
        """The number of channels between the two, R."""
        return self.vertical.shape[0]

    def reconstruct(self) -> Tensor:
        """The weight (K, C, kH, kW) that the two stand for; summed in float64."""
        whole = torch.einsum(
            "krj,rci->kcij", self.horizontal[:, :, 0].double(), self.vertical[..., 0].double()
        )
        return whole.to(self.vertical.dtype)


@torch.no_grad()
def spatial_svd(weight: Tensor, rank: int) -> SpatialFactors:
    """The best approximation of a weight (K, C, kH, kW) by a vertical and a horizontal convolution.

    Args:
        weight: floating point, finite, any memory format.
        rank: channels between the two, 1 <= R <= min(K·kW, C·kH); the largest rank is exact.

    Raises TypeError, ValueError or NotImplementedError as `cp` does, and ValueError for a rank out of its
    range.
    """
    check_weight(weight)
    rank = integer("rank", rank, least=1)
    outputs, inputs, height, width = weight.shape
    enough = min(outputs * width, inputs * height)
    if rank > enough:
        raise ValueError(f"rank: expected at most {enough} for shape {tuple(weight.shape)}, got {rank}")
    target = weight.double()
    scale = target.abs().max().item() or 1.0
    matrix = (target / scale).permute(0, 3, 1, 2).reshape(outputs * width, inputs * height)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    # The singular values are shared evenly, so that neither convolution is trained at another pace.
    root = (scale * values[:rank]).sqrt()
    horizontal = (left[:, :rank] * root).reshape(outputs, width, rank).permute(0, 2, 1)[:, :, None, :]
    vertical = (root[:, None] * right[:rank]).reshape(rank, inputs, height, 1)
    horizontal, vertical = (each.to(weight.dtype).contiguous() for each in (horizontal, vertical))
    rebuilt = torch.einsum("krj,rci->kcij", horizontal[:, :, 0].double(), vertical[..., 0].double())
    norm = matrix.norm().item() or 1.0
    return SpatialFactors(vertical, horizontal, ((rebuilt - target) / scale).norm().item() / norm)
