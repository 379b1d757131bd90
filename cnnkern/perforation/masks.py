"""Masks that need no data: random, regular, and made for the pooling layer behind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor

IntPair = int | Sequence[int]


def uniform(size: Sequence[int], rate: float, seed: int = 0) -> Tensor:
    """A mask that keeps positions drawn at random, without repetition.

    Args:
        size: (oH, oW), of the outputs.
        rate: share of the positions to drop, 0 <= rate < 1.
        seed: the same gives the same mask.

    Returns:
        bool (oH, oW), with `kept_count(size, rate)` positions kept.

    Raises:
        ValueError: a size without positions, or a rate outside its range.
    """
    height, width = _checked_size(size)
    count = kept_count((height, width), rate)
    order = torch.randperm(height * width, generator=torch.Generator().manual_seed(seed))
    return _kept(order[:count], (height, width))


def grid(size: Sequence[int], rate: float) -> Tensor:
    """A mask that keeps the crossings of rows and columns which lie evenly apart.

    Rows and columns are thinned alike: of a side of n positions it keeps m = round(n·√(1 − rate)), at least
    one, namely ⌊(i + ½)·n/m⌋ for i from 0 to m − 1. The distance n/m may be fractional, such that any rate
    can be had, not only 1 − 1/s². The number of columns makes up for the rounding of the rows.

    Args and errors as for `uniform`.

    Returns:
        bool (oH, oW), the outer product of its rows and columns.
    """
    height, width = _checked_size(size)
    count = kept_count((height, width), rate)
    rows = min(height, max(1, round(height * math.sqrt(1 - rate))))
    columns = min(width, max(1, round(count / rows)))
    return _spread(height, rows)[:, None] & _spread(width, columns)[None, :]


def pooling_structure(
    size: Sequence[int],
    rate: float | None,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    seed: int = 0,
) -> Tensor:
    """A mask that keeps the positions which most windows of the pooling layer behind read.

    Those that equally many windows read are drawn at random. Where windows leave gaps, to drop just these
    changes nothing that the pooling layer returns, not even without interpolation.

    Args:
        size, seed: as for `uniform`.
        rate: as for `uniform`, or None to drop the positions that no window reads.
        kernel_size, stride, padding, dilation: of the pooling layer, as `torch.nn.MaxPool2d` takes them; its
            stride is the kernel size where it is None.

    Returns:
        bool (oH, oW), with `kept_count(size, rate)` positions kept if a rate is given.

    Raises:
        ValueError: as `uniform`, or a window that does not fit.
    """
    height, width = _checked_size(size)
    kernels, strides = _pair(kernel_size), _pair(kernel_size if stride is None else stride)
    geometry = zip((height, width), kernels, strides, _pair(padding), _pair(dilation), strict=True)
    rows, columns = (_windows_at_each(*axis) for axis in geometry)
    windows = rows[:, None] * columns
    return windows > 0 if rate is None else best(windows, rate, seed)


def best(scores: Tensor, rate: float, seed: int) -> Tensor:
    """The mask of this rate that keeps the highest `scores` (oH, oW), drawing lots among equal ones."""
    size = scores.shape[0], scores.shape[1]
    lots = torch.rand(scores.numel(), generator=torch.Generator().manual_seed(seed))
    order = torch.argsort(lots)
    order = order[torch.argsort(scores.flatten().cpu()[order], descending=True, stable=True)]
    return _kept(order[: kept_count(size, rate)], size)


def checked_rate(rate: float) -> float:
    """`rate`, if it is a share that leaves something."""
    if not isinstance(rate, Real):
        raise TypeError(f"rate: expected a number, got {rate!r}")
    if not 0 <= rate < 1:
        raise ValueError(f"rate: expected 0 <= rate < 1, got {rate!r}")
    return rate


def kept_count(size: Sequence[int], rate: float) -> int:
    """How many of the positions a mask of this rate keeps: the nearest number, at least one."""
    return max(1, round(size[0] * size[1] * (1 - checked_rate(rate))))


def _checked_size(size: Sequence[int]) -> tuple[int, int]:
    if not isinstance(size, Sequence) or len(size) != 2:
        raise TypeError(f"size: expected a pair of ints (oH, oW), got {size!r}")
    height, width = size
    if height < 1 or width < 1:
        raise ValueError(f"size: expected at least 1 x 1, got {tuple(size)}")
    return height, width


def _pair(value: IntPair) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else value
    return first, second


def _kept(indices: Tensor, size: tuple[int, int]) -> Tensor:
    mask = torch.zeros(size[0] * size[1], dtype=torch.bool)
    mask[indices] = True
    return mask.view(size)


def _spread(length: int, count: int) -> Tensor:
    """bool (length), with `count` positions evenly apart."""
    mask = torch.zeros(length, dtype=torch.bool)
    mask[(2 * torch.arange(count) + 1) * length // (2 * count)] = True
    return mask


def _windows_at_each(length: int, kernel: int, stride: int, padding: int, dilation: int) -> Tensor:
    """How many windows along one axis read each position, (length)."""
    if min(kernel, stride, dilation) < 1 or padding < 0:
        raise ValueError(
            "kernel_size, stride, padding, dilation: expected those of a pooling layer, got "
            f"{kernel}, {stride}, {padding}, {dilation}"
        )
    room = length + 2 * padding - dilation * (kernel - 1) - 1
    if room < 0:
        raise ValueError(
            f"kernel_size: expected a window that fits into {length + 2 * padding} positions, got {kernel}"
        )
    starts = torch.arange(room // stride + 1) * stride - padding
    read = (starts[:, None] + torch.arange(kernel) * dilation).flatten()
    return torch.bincount(read[(read >= 0) & (read < length)], minlength=length)
