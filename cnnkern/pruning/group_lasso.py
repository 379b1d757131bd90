"""The group lasso over columns: Σ ‖W(:, c, i, j)‖₂, which drives whole columns to zero.

Lebedev & Lempitsky, Fast ConvNets using group-wise brain damage, CVPR 2016. The sum may be a term of the
loss, as in the paper; its gradient makes columns small and never zero. Or, instead, its proximal operator
follows each step of the optimizer (Parikh & Boyd, Proximal algorithms, 2014, section 6.5.4), and columns
become zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .layers import by_group, convolutions, over_weight
from .scores import column_norms


def group_lasso(model: nn.Module, layers: Sequence[str] | None = None) -> Tensor:
    """Σ ‖W(:, c, i, j)‖₂ over the columns of the named convolutions, or of all: a scalar for any loss.

    `loss + strength * group_lasso(model)`. A column that is zero has gradient zero. In a group of processes
    every process adds it, as the loss itself is averaged.
    """
    norms = [column_norms(conv.weight, conv.groups) for conv in convolutions(model, layers).values()]
    return torch.stack([each.sum().to(norms[0].device) for each in norms]).sum()


@torch.no_grad()
def proximal_step(model: nn.Module, threshold: float, layers: Sequence[str] | None = None) -> None:
    """Multiply each column w by max(0, 1 − threshold/‖w‖), in place: the u that is least in
    ½ ‖u − w‖² + threshold·‖u‖.

    Call it after the optimizer's step, with threshold = learning rate · strength, in place of the term.

    Raises ValueError for a threshold that is negative or not finite.
    """
    if not 0 <= threshold < math.inf:
        raise ValueError(f"threshold: expected a finite number that is not negative, got {threshold!r}")
    for conv in convolutions(model, layers).values():
        norms = column_norms(conv.weight, conv.groups)
        # the quotient is at most 1 and 0 for a zero column, whatever the threshold
        factors = (norms - threshold).clamp(min=0) / norms.clamp(min=torch.finfo(norms.dtype).tiny)
        by_group(conv.weight, conv).mul_(over_weight(factors, conv))
