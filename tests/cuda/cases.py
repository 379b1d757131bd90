"""The convolutions that CUDA kernels are tested on: some of the CPU kernels', and sizes one below and above
what they are cut by: chunks of 4 and 8 channels, tiles of 32 and 64 terms of a sum, 64 and 128 pixels, 64 and
128 output channels."""

import torch
from torch import Tensor

from tests.ops.cases import EDGES, GEOMETRY, GROUPS, KERNELS, Case

CUTS = [
    *(Case((1, channels, 3, 5), 5, (3, 3), padding=(1, 1), rank=channels) for channels in (3, 4, 5, 7, 8, 9)),
    *(Case((1, channels, 2, 3), 3, (1, 1), rank=3) for channels in (31, 32, 33, 63, 64, 65, 200)),
    *(Case((1, 8, 3, width), 6, (1, 3), padding=(0, 1), rank=5) for width in (21, 22, 42, 43)),
    *(Case((1, 8, 2, 5), channels, (1, 1), rank=8) for channels in (63, 64, 65, 128, 132)),
    *(Case((1, 5, 4, 6), 9, (3, 3), padding=(1, 1), rank=rank) for rank in (31, 33, 64, 65, 130)),
    Case((2, 16, 9, 12), 24, (3, 3), padding=(1, 1), rank=40),
    Case((1, 16, 17, 16), 40, (5, 3), stride=(1, 2), padding=(2, 1), groups=2, rank=24),
    Case((1, 8, 7, 9), 8, (3, 3), stride=(3, 2), dilation=(2, 3), padding=(2, 3), rank=8),
]
# Chunks of channels and parts of them, several outputs of one, more pixels than a block has, a large kernel.
DEPTHWISE = [
    Case((2, 16, 7, 9), 16, (3, 3), padding=(1, 1), groups=16),
    Case((1, 24, 11, 8), 24, (5, 3), stride=(2, 1), dilation=(1, 2), padding=(2, 2), groups=24),
    Case((1, 8, 9, 10), 24, (3, 2), stride=(1, 2), groups=8),
    Case((1, 70, 5, 6), 70, (2, 3), padding=(2, 2), groups=70, bias=False),
    Case((2, 2, 41, 37), 2, (3, 3), padding=(1, 1), groups=2),
    Case((1, 72, 17, 19), 72, (15, 17), padding=(7, 8), groups=72),
]
CASES = [*CUTS, *KERNELS[::3], *GEOMETRY, *GROUPS, *EDGES]
LAYOUTS = ("contiguous", "channels_last")


def with_dtype(tensors: list[Tensor | None], dtype: torch.dtype) -> list[Tensor | None]:
    return [None if tensor is None else tensor.to(dtype) for tensor in tensors]
