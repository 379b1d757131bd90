"""The convolutions that the operations are tested on, and the ways in which their tensors may lie in memory.

The sizes go one below and above what the kernels are cut by: panels of 16 channels, tiles of 6 and 14
pixels, sums of 256 terms. The others are primes where they can be.
"""

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

Pair = tuple[int, int]


@dataclass(frozen=True)
class Case:
    """One convolution. `rank` is that of the CP operations, and `groups` divides it."""

    x: tuple[int, int, int, int]  # N, C, H, W
    channels: int  # K
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    bias: bool = True
    rank: int = 5

    def __str__(self) -> str:
        given = (
            f"{f.name}={getattr(self, f.name)}" for f in fields(self) if getattr(self, f.name) != f.default
        )
        return "-".join(given).replace(" ", "")

    @property
    def weight_size(self) -> tuple[int, int, int, int]:
        """K, C/G, kH, kW."""
        return (self.channels, self.x[1] // self.groups, *self.kernel)

    @property
    def factor_size(self) -> tuple[int, int, int, int, int]:
        """K, R, C/G, kH, kW."""
        return (self.channels, self.rank, *self.weight_size[1:])

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of the operation."""
        return {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
        }

    def conv2d_arguments(self, dtype: torch.dtype = torch.float32) -> list[Tensor | None]:
        """x, weight and bias with random values."""
        return [torch.randn(size, dtype=dtype) for size in (self.x, self.weight_size)] + [self._bias(dtype)]

    def cp_arguments(self, dtype: torch.dtype = torch.float32) -> list[Tensor | None]:
        """x, the four factors and bias with random values."""
        k, rank, c, kernel_h, kernel_w = self.factor_size
        sizes = (self.x, (rank, c), (rank, kernel_h), (rank, kernel_w), (k, rank // self.groups))
        return [torch.randn(size, dtype=dtype) for size in sizes] + [self._bias(dtype)]

    def column_sparse_arguments(
        self, dtype: torch.dtype = torch.float32, density: float = 0.3
    ) -> list[Tensor | None]:
        """x, weight, columns and bias with random values: `density` of the columns, and one at least."""
        k, *patch = self.weight_size
        total = math.prod(patch)
        kept = max(1, round(density * total))
        columns = torch.rand(self.groups, total).topk(kept).indices.sort().values.int()
        weight = torch.randn(k, kept, dtype=dtype)
        x = torch.randn(self.x, dtype=dtype)
        return [x, weight, columns if self.groups > 1 else columns[0], self._bias(dtype)]

    def _bias(self, dtype: torch.dtype) -> Tensor | None:
        return torch.randn(self.channels, dtype=dtype) if self.bias else None


TILES = [
    *(Case((1, 3, 1, width), 17, (1, 1), rank=7) for width in (5, 6, 7, 13, 14, 15, 29)),
    *(
        Case((1, 7, 3, 5), channels, (3, 3), padding=(1, 1), rank=channels)
        for channels in (15, 16, 17, 31, 33)
    ),
    *(Case((1, channels, 5, 3), 3, (1, 1), rank=2) for channels in (15, 16, 17, 255, 256, 257)),
    *(Case((1, 2, 4, 7), 5, (3, 1), rank=rank) for rank in (1, 15, 16, 17, 33, 47, 48, 49)),
    Case((2, 29, 7, 11), 19, (3, 3), padding=(1, 1), rank=23),
]
KERNELS = [
    *(Case((1, 2, 11, 13), 3, (size, 12 - size)) for size in range(1, 12)),
    Case((1, 3, 2, 3), 5, (5, 7), padding=(2, 3)),
    Case((1, 3, 1, 1), 5, (3, 3), padding=(1, 1)),
    Case((2, 3, 5, 4), 2, (1, 1), padding=(2, 1)),
    Case((1, 2, 4, 5), 3, (4, 5)),
]
GEOMETRY = [
    Case((2, 3, 9, 11), 4, (3, 3), stride=(2, 2), padding=(1, 1)),
    Case((1, 3, 13, 17), 4, (3, 2), stride=(3, 1)),
    Case((1, 3, 13, 17), 4, (2, 3), stride=(1, 4), padding=(0, 2)),
    Case((1, 5, 7, 8), 4, (1, 1), stride=(2, 3)),
    Case((1, 3, 11, 13), 4, (3, 3), dilation=(2, 3), padding=(2, 3)),
    Case((2, 3, 11, 13), 4, (2, 3), stride=(2, 1), dilation=(3, 2), padding=(1, 4)),
    Case((1, 3, 7, 131), 18, (3, 5), padding=(1, 2), rank=17),
]
GROUPS = [
    Case((2, 6, 5, 7), 10, (3, 3), padding=(1, 1), groups=2, rank=6),
    Case((1, 9, 5, 7), 51, (3, 2), groups=3, rank=51),
    Case((1, 34, 3, 5), 34, (1, 1), groups=2, bias=False, rank=34),
    Case((2, 17, 7, 9), 17, (3, 3), padding=(1, 1), groups=17, rank=17),
    Case((1, 33, 9, 8), 33, (5, 3), stride=(2, 1), dilation=(1, 2), padding=(2, 2), groups=33, rank=33),
    Case((1, 7, 6, 5), 21, (3, 3), padding=(1, 1), groups=7, rank=14),
    Case((1, 5, 6, 5), 85, (2, 2), groups=5, bias=False, rank=5),
    Case((1, 6, 6, 5), 2, (3, 3), groups=2, rank=4),
]
EDGES = [
    Case((1, 1, 1, 1), 1, (1, 1), rank=1),
    Case((1, 1, 7, 9), 4, (3, 3), padding=(1, 1)),
    Case((3, 5, 1, 1), 7, (1, 1), bias=False),
    Case((2, 5, 1, 9), 7, (1, 3), padding=(0, 1)),
    Case((2, 5, 9, 1), 7, (3, 1), padding=(1, 0)),
    Case((0, 3, 5, 7), 4, (3, 3)),
    Case((5, 3, 5, 7), 1, (3, 3), bias=False),
]
# enough work for two threads, which share it by images, by rows, and by channels
SHARED = [
    Case((3, 19, 17, 23), 33, (3, 3), padding=(1, 1), rank=37),
    Case((1, 24, 41, 37), 40, (3, 3), padding=(1, 1), rank=40),
    Case((1, 24, 43, 37), 40, (5, 3), stride=(2, 1), padding=(2, 1), dilation=(1, 2), rank=40),
    Case((1, 256, 7, 7), 272, (3, 3), padding=(1, 1), rank=208),
    Case((1, 64, 29, 31), 64, (3, 3), padding=(1, 1), groups=4, rank=96),
    Case((1, 65, 61, 59), 65, (3, 3), padding=(1, 1), groups=65, rank=65),
]
CASES = TILES + KERNELS + GEOMETRY + GROUPS + EDGES + SHARED

LAYOUTS = ("contiguous", "channels_last", "sliced", "sliced_channels_last")


def fenced(tensor: Tensor | None, fill: float = math.nan) -> Tensor | None:
    """The same tensor, dense in its own memory format, with NaN, or `fill`, in the memory around it."""
    if tensor is None:
        return None
    fence = 67  # no multiple of a vector: the data is not aligned to one either
    memory = tensor.new_full((tensor.numel() + 2 * fence,), fill)
    return memory.as_strided(tensor.shape, tensor.stride(), fence).copy_(tensor)


def laid_out(x: Tensor, layout: str, fill: float = math.nan) -> Tensor:
    """`x` (N, C, H, W) in one of LAYOUTS, `fill` around it; a sliced one is a window into a larger tensor."""
    memory_format = torch.channels_last if layout.endswith("channels_last") else torch.contiguous_format
    if not layout.startswith("sliced"):
        return fenced(x.contiguous(memory_format=memory_format), fill)
    n, c, h, w = x.shape
    around = x.new_full((n, c + 3, h + 2, 2 * w + 3), fill).contiguous(memory_format=memory_format)
    return around[:, 2 : c + 2, 1 : h + 1, 3::2].copy_(x)
