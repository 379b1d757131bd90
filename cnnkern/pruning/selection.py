"""Which columns stay: the budget of each layer, or one for all layers together.

The groups of a convolution keep equally many columns, each its own, so that they stay equal matrix products.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real

import torch
from torch import Tensor

Density = float | Mapping[str, float]
SCOPES = ("layer", "global")


def strongest(scores: Mapping[str, Tensor], density: Density, scope: str = "layer") -> dict[str, Tensor]:
    """Masks (G, columns), bool, True for what stays: the columns with the highest `scores` (G, columns).

    Args:
        scores: of each layer; −inf for a column that goes before all others.
        density: the share of columns to keep, 0 to 1; per layer also as {name: share}. Above 0, each group
            of each layer keeps one column at least.
        scope: "layer", the share holds in each group of each layer, rounded; or "global", it holds for the
            columns of all layers together and their scores are compared, in grouped layers the mean over the
            groups of the strongest, of the second strongest, and so on. A column counts as one, however many
            output channels it has.

    Equal scores keep the column of the lower index. Raises ValueError for a density or a scope that cannot
    be, and for a score that is not a number.
    """
    for name, each in scores.items():
        if each.isnan().any():
            raise ValueError(f"criterion: expected scores that are numbers, got NaN among those of {name!r}")
    if scope == "layer":
        counts = _counts_per_layer(scores, density)
    elif scope == "global":
        counts = _counts_over_all(scores, density)
    else:
        raise ValueError(f"scope: expected one of {', '.join(SCOPES)}, got {scope!r}")
    return {name: _first(each, counts[name]) for name, each in scores.items()}


def _counts_per_layer(scores: Mapping[str, Tensor], density: Density) -> dict[str, int]:
    shares = density if isinstance(density, Mapping) else dict.fromkeys(scores, density)
    if shares.keys() != scores.keys():
        raise ValueError(f"density: expected a share for each of {list(scores)}, got {list(shares)}")
    counts = {}
    for name, each in scores.items():
        share = _checked_share(shares[name])
        counts[name] = max(round(share * each.shape[1]), int(share > 0))
    return counts


def _counts_over_all(scores: Mapping[str, Tensor], density: Density) -> dict[str, int]:
    if isinstance(density, Mapping):
        raise ValueError(f"density: expected one share for scope 'global', got {dict(density)}")
    share = _checked_share(density)
    if share == 0:
        return dict.fromkeys(scores, 0)
    values, costs, owners = [], [], []
    for owner, each in enumerate(scores.values()):
        by_rank = each.sort(dim=1, descending=True).values.mean(dim=0).cpu()
        by_rank[0] = math.inf  # no layer is cut off
        values.append(by_rank)
        costs.append(torch.full(by_rank.shape, each.shape[0]))
        owners.append(torch.full(by_rank.shape, owner))
    order = torch.cat(values).sort(descending=True, stable=True).indices
    spent = torch.cat(costs)[order].cumsum(0)
    within = int((spent <= round(share * sum(each.numel() for each in scores.values()))).sum())
    kept = torch.cat(owners)[order[: max(within, len(scores))]]
    return dict(zip(scores, kept.bincount(minlength=len(scores)).tolist(), strict=True))


def _checked_share(density: float) -> float:
    if not isinstance(density, Real):
        raise TypeError(f"density: expected a number, got {density!r}")
    if not 0 <= density <= 1:
        raise ValueError(f"density: expected a share from 0 to 1, got {density!r}")
    return density


def _first(scores: Tensor, count: int) -> Tensor:
    """Marks the `count` highest of each row."""
    best = scores.sort(dim=1, descending=True, stable=True).indices[:, :count]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, best, True)
