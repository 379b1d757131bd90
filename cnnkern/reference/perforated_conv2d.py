"""Perforated convolution: a dense convolution whose dropped outputs take over a kept one.

Figurnov, Ibraimova, Vetrov, Kohli: PerforatedCNNs: Acceleration through Elimination of Redundant
Convolutions, NIPS 2016.
"""

import torch
from torch import Tensor

from cnnkern.reference.conv2d import conv2d
from cnnkern.reference.im2col import IntPair


def nearest_kept(mask: Tensor) -> Tensor:
    """For each position of `mask` (..., oH, oW), bool, the flat index row·oW + column of the kept position
    nearest to it, (..., oH, oW) int64; -1 where none is kept.

    The distance is Euclidean; of several equally near ones it is the one in the highest row, and there the
    leftmost. The positions around are tried in just that order.
    """
    height, width = mask.shape[-2:]
    device, mask = mask.device, mask.cpu()  # much is asked of few numbers
    down = torch.arange(-height + 1, height)[:, None]
    right = torch.arange(-width + 1, width)[None, :]
    order = (down**2 + right**2).flatten().argsort(stable=True)
    index = torch.arange(height * width).view(height, width)
    found = torch.full(mask.shape, -1)
    for offset in order.tolist():
        if bool((found >= 0).all()):
            break
        dy, dx = offset // right.numel() - height + 1, offset % right.numel() - width + 1
        rows = slice(max(0, -dy), height - max(0, dy))
        columns = slice(max(0, -dx), width - max(0, dx))
        rows_there = slice(rows.start + dy, rows.stop + dy)
        columns_there = slice(columns.start + dx, columns.stop + dx)
        open_here = found[..., rows, columns] < 0
        new = open_here & mask[..., rows_there, columns_there]
        found[..., rows, columns] = torch.where(
            new, index[rows_there, columns_there], found[..., rows, columns]
        )
    return found.to(device)


def perforated_conv2d(
    x: Tensor,
    weight: Tensor,
    mask: Tensor,
    bias: Tensor | None = None,
    *,
    stride: IntPair = 1,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    groups: int = 1,
    interpolation: str = "nearest",
) -> Tensor:
    """Convolution of `x` (N, C, H, W) with `weight` (K, C/G, kH, kW) and `bias` (K) where `mask` keeps it,
    (oH, oW) or (N, oH, oW); elsewhere the value at `nearest_kept`, or zero for interpolation="none"."""
    y = conv2d(x, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups)
    masks = mask.expand(y.shape[0], *mask.shape[-2:])
    if interpolation == "none":
        return torch.where(masks[:, None], y, 0)
    sources = nearest_kept(mask).expand_as(masks)
    return y.flatten(2).gather(2, sources.flatten(1)[:, None].expand(*y.shape[:2], -1)).view_as(y)
