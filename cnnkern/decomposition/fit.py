"""What every method hands to the front door."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Fit:
    """Factors in the order of the tensor's modes, and how they came about."""

    factors: list[Tensor]
    start: str
    stopped: str
    errors: list[float]  # relative, after each iteration (after each term for the greedy method)
