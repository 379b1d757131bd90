"""What stock PyTorch can do for a perforated convolution: the baseline, and the form that is exported."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnkern.nn.convolution import parameter_like


class StockGridConv2d(nn.Module):
    """A perforated convolution whose kept outputs lie at the crossings of rows and columns of even distance.

    They are the outputs of a stock convolution with a larger stride; the others are interpolated by stock
    torch where that gives the nearest ones, else gathered.
    """

    def __init__(self, conv: nn.Conv2d, mask: Tensor, sources: Tensor) -> None:
        super().__init__()
        self.weight = parameter_like(conv.weight, conv.weight)
        self.bias = None if conv.bias is None else parameter_like(conv.bias, conv.bias)
        self.margins, self.mode = _margins(conv)
        self.dilation, self.groups = conv.dilation, conv.groups
        axes = [
            _even_distance(kept, stride)
            for kept, stride in zip((mask.any(1), mask.any(0)), conv.stride, strict=True)
        ]
        self.first, self.stride, self.count = (tuple(numbers) for numbers in zip(*axes, strict=True))
        self.size = tuple(mask.shape)
        shown = _kept_before(mask, sources)
        self.zeros = bool((sources < 0).any())
        kept = torch.arange(self.count[0] * self.count[1], device=mask.device).view(1, 1, *self.count)
        nearest = F.interpolate(kept.double(), self.size, mode="nearest").long()
        self.interpolates = torch.equal(nearest.flatten(), shown)
        if not self.interpolates:
            self.register_buffer("shown", shown)

    def forward(self, x: Tensor) -> Tensor:
        """(N, K, oH, oW) from x (N, C, H, W)."""
        y = self._kept_outputs(x)
        if self.count == self.size:
            return y
        if self.interpolates:
            return F.interpolate(y, self.size, mode="nearest")
        return _gathered(y.permute(0, 2, 3, 1).flatten(1, 2), self.shown, self.size, self.zeros)

    def _kept_outputs(self, x: Tensor) -> Tensor:
        left, right, top, bottom = self.margins
        padding = top - self.first[0], left - self.first[1]
        if self.mode != "constant" or min(padding) < 0 or not self._reaches(x, padding):
            x = F.pad(x, (left, right, top, bottom), self.mode)[:, :, self.first[0] :, self.first[1] :]
            padding = 0, 0
        y = F.conv2d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)
        return y[:, :, : self.count[0], : self.count[1]]

    def _reaches(self, x: Tensor, padding: tuple[int, int]) -> bool:
        """Whether a convolution that pads as much behind as before has all the outputs."""
        ends = [
            (count - 1) * stride + dilation * (taps - 1) + 1
            for count, stride, dilation, taps in zip(
                self.count, self.stride, self.dilation, self.weight.shape[2:], strict=True
            )
        ]
        return all(size + 2 * pad >= end for size, pad, end in zip(x.shape[2:], padding, ends, strict=True))


class StockGatherConv2d(nn.Module):
    """A perforated convolution of any mask: kept patches by indexing, a matrix product, and a gathering.

    Patches are gathered channels last, where what belongs to a pixel lies together.
    """

    def __init__(self, conv: nn.Conv2d, mask: Tensor, sources: Tensor) -> None:
        super().__init__()
        by_group = conv.weight.unflatten(0, (conv.groups, -1)).permute(0, 3, 4, 2, 1)
        self.weight = parameter_like(by_group.flatten(1, 3), conv.weight)  # (G, kH·kW·C/G, K/G)
        self.bias = None if conv.bias is None else parameter_like(conv.bias, conv.bias)
        self.margins, self.mode = _margins(conv)
        self.size, self.groups = tuple(mask.shape), conv.groups
        for name, kept, taps, stride, dilation in zip(
            ("rows", "columns"),
            mask.nonzero().T,
            conv.kernel_size,
            conv.stride,
            conv.dilation,
            strict=True,
        ):
            index = kept[:, None] * stride + torch.arange(taps, device=kept.device) * dilation
            self.register_buffer(name, index)  # (kept outputs, taps)
        self.zeros = bool((sources < 0).any())
        self.register_buffer("shown", _kept_before(mask, sources))

    def forward(self, x: Tensor) -> Tensor:
        """(N, K, oH, oW) from x (N, C, H, W)."""
        x = F.pad(x, self.margins, self.mode)
        n, c, h, w = x.shape
        index = (self.rows[:, :, None] * w + self.columns[:, None, :]).flatten()
        kept = self.rows.shape[0]
        patches = x.permute(0, 2, 3, 1).reshape(n, h * w, c).index_select(1, index)
        if self.groups == 1:
            y = patches.reshape(n * kept, -1) @ self.weight[0]
        else:
            by_group = patches.reshape(n * kept, -1, self.groups, c // self.groups).permute(2, 0, 1, 3)
            y = torch.bmm(by_group.flatten(2), self.weight).permute(1, 0, 2).flatten(1)
        if self.bias is not None:
            y = y + self.bias
        return _gathered(y.reshape(n, kept, -1), self.shown, self.size, self.zeros)


def _kept_before(mask: Tensor, sources: Tensor) -> Tensor:
    """Which of the kept outputs each output shows, (oH·oW); as many as there are, where it shows none."""
    order, shown = mask.flatten().long().cumsum(0) - 1, sources.flatten().long()
    return torch.where(shown < 0, mask.sum(), order[shown])


def _gathered(y: Tensor, shown: Tensor, size: tuple[int, ...], zeros: bool) -> Tensor:
    """(N, K, oH, oW) from the kept outputs (N, kept, K), with zeros behind them where some show none."""
    if zeros:
        y = F.pad(y, (0, 0, 0, 1))
    return y.index_select(1, shown).unflatten(1, size).permute(0, 3, 1, 2)


def is_regular_grid(mask: Tensor) -> bool:
    """Whether the kept outputs are the crossings of rows and columns, each of one distance."""
    rows, columns = mask.any(1), mask.any(0)
    return all(
        axis.nonzero().flatten().diff().unique().numel() <= 1 for axis in (rows, columns)
    ) and torch.equal(mask, rows[:, None] & columns[None, :])


def _even_distance(kept: Tensor, stride: int) -> tuple[int, int, int]:
    """Along one axis: the pixel of the padded input that the first kept output begins at, stride, count."""
    positions = kept.nonzero().flatten().tolist()
    distance = positions[1] - positions[0] if len(positions) > 1 else 1
    return positions[0] * stride, distance * stride, len(positions)


def _margins(conv: nn.Conv2d) -> tuple[list[int], str]:
    """The padding as F.pad takes it."""
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    return list(conv._reversed_padding_repeated_twice), mode
