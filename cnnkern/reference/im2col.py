"""The patch matrix of a convolution, as `torch.nn.functional.unfold` defines it."""

import torch.nn.functional as F
from torch import Tensor

IntPair = int | tuple[int, int]


def im2col(
    x: Tensor, kernel_size: IntPair, *, stride: IntPair = 1, padding: IntPair = 0, dilation: IntPair = 1
) -> Tensor:
    """Patches of `x` (N, C, H, W) as the columns of (N, C·kH·kW, oH·oW), zero outside the image."""
    return F.unfold(x, kernel_size, dilation, padding, stride)
