"""Observers: which range of a tensor's values the grid should cover, from values that were seen.

An observer is called with tensors of any shape and gives `range()`. What it knows is in buffers, and so in
the `state_dict`; the same values give the same range.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .affine import Affine

BINS = 4096


class Observer(nn.Module):
    """Base: the least and the greatest value seen. Values that are not finite are refused by `range`."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.tensor(math.inf))
        self.register_buffer("high", torch.tensor(-math.inf))

    @property
    def is_empty(self) -> bool:
        """Whether nothing was observed yet."""
        return bool(self.low > self.high)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Take the values of `x` into account, and return it."""
        if x.numel():
            self.observe(x.detach().float())
        return x

    def observe(self, x: Tensor) -> None:
        """Take the values of `x`, float32 and at least one, into account."""
        low, high = torch.aminmax(x)
        self.low.copy_(torch.minimum(self.low, low))
        self.high.copy_(torch.maximum(self.high, high))

    def range(self) -> tuple[float, float]:
        """The range (low, high) that the grid should cover.

        Raises ValueError if nothing was observed, or something that is not finite.
        """
        low, high = float(self.low), float(self.high)
        if low > high:
            raise ValueError("expected to have seen values, got none")
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(f"expected finite values, got a range of [{low}, {high}]")
        return low, high


class MinMax(Observer):
    """All values that were seen."""


class MovingAverage(Observer):
    """Exponential moving averages of the least and the greatest value of each tensor (Jacob et al. 2018).

    Args:
        rate: by how much of the difference the average moves at each tensor; the first one sets it.
    """

    def __init__(self, rate: float = 0.01) -> None:
        super().__init__()
        if not 0 < rate <= 1:
            raise ValueError(f"rate: expected more than 0 and at most 1, got {rate!r}")
        self.rate = rate

    def observe(self, x: Tensor) -> None:
        low, high = torch.aminmax(x)
        rate = 1.0 if self.is_empty else self.rate
        # a difference to the infinity of an empty observer would be no number
        self.low.copy_(low if rate == 1.0 else self.low + rate * (low - self.low))
        self.high.copy_(high if rate == 1.0 else self.high + rate * (high - self.high))


class Histogram(Observer):
    """Counts the values in bins whose width is a power of two: `counts[i]` of them are in
    [(first + i) · width, (first + i + 1) · width).

    The width doubles, and pairs of bins merge, when BINS of them no longer reach from the least to the
    greatest value. So the counts depend on the values that were seen alone, not on their order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(BINS, dtype=torch.int64))
        self.register_buffer("first", torch.tensor(0))
        self.register_buffer("exponent", torch.tensor(-126))

    @property
    def centres(self) -> Tensor:
        """The middle of each bin (BINS), float64."""
        indices = torch.arange(BINS, dtype=torch.float64, device=self.counts.device)
        return torch.ldexp(indices + self.first + 0.5, self.exponent)

    def observe(self, x: Tensor) -> None:
        super().observe(x)
        low, high = float(self.low), float(self.high)
        if not (math.isfinite(low) and math.isfinite(high)):
            return  # `range` refuses
        # zero is on every grid, and with it no bin has a number that is larger than BINS
        self._widen(min(low, 0.0), max(high, 0.0))
        indices = torch.ldexp(x.double(), -self.exponent).floor_().long().sub_(self.first)
        self.counts += torch.bincount(indices.flatten(), minlength=BINS)

    def _widen(self, low: float, high: float) -> None:
        """Bins that reach from `low` to `high`, with the counts so far."""
        exponent = int(self.exponent)
        while _bin(high, exponent) - _bin(low, exponent) >= BINS:
            exponent += 1
        first = _bin(low, exponent)
        indices = torch.arange(BINS, device=self.counts.device) + self.first
        moved = (indices >> (exponent - int(self.exponent))) - first
        kept = self.counts > 0
        counts = torch.zeros_like(self.counts).index_add_(0, moved[kept], self.counts[kept])
        self.counts.copy_(counts)
        self.first.fill_(first)
        self.exponent.fill_(exponent)


def _bin(value: float, exponent: int) -> int:
    return math.floor(math.ldexp(value, -exponent))


class Percentile(Histogram):
    """The range that leaves out the share 1 − `share` of the values, half of it at each end.

    It is exact to the width of a bin, and does not reach beyond the values that were seen.
    """

    def __init__(self, share: float = 0.9999) -> None:
        super().__init__()
        if not 0 < share <= 1:
            raise ValueError(f"share: expected more than 0 and at most 1, got {share!r}")
        self.share = share

    def range(self) -> tuple[float, float]:
        low, high = super().range()
        total = self.counts.sum()
        cut = (1 - self.share) / 2 * float(total)
        up, down = self.counts.cumsum(0), self.counts.flip(0).cumsum(0)
        first, last = int((up <= cut).sum()), BINS - 1 - int((down <= cut).sum())
        half = math.ldexp(0.5, int(self.exponent))
        return max(low, float(self.centres[first]) - half), min(high, float(self.centres[last]) + half)


class LeastSquares(Histogram):
    """The range whose grid has the least mean squared error over the values that were seen.

    Both ends are searched in turn, each over STEPS shares of how far the values reach, until neither moves.
    """

    STEPS = 100

    def range(self) -> tuple[float, float]:
        least, greatest = super().range()
        least, greatest = min(least, 0.0), max(greatest, 0.0)
        kept = self.counts > 0
        values, weights = self.centres[kept].clamp(least, greatest), self.counts[kept].double()
        shares = [step / self.STEPS for step in range(1, self.STEPS + 1)]
        low, high = least, greatest
        for _ in range(4):
            before = low, high
            high = self._best([(low, greatest * share) for share in shares], values, weights)[1]
            low = self._best([(least * share, high) for share in shares], values, weights)[0]
            if (low, high) == before:
                break
        return low, high

    def _best(
        self, candidates: list[tuple[float, float]], values: Tensor, weights: Tensor
    ) -> tuple[float, float]:
        grids = [Affine.from_range(low, high) for low, high in candidates]
        low, high, scale = (
            values.new_tensor([getattr(grid, name) for grid in grids])[:, None]
            for name in ("low", "high", "scale")
        )
        nearest = (values / scale).round_().mul_(scale).clamp_(low, high)
        errors = nearest.sub_(values).square_() @ weights
        # of equally good ranges the widest
        return candidates[len(candidates) - 1 - int(errors.flip(0).argmin())]
