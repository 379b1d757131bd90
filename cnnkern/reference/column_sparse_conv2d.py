"""Column-sparse convolution: a dense convolution with zeros in place of the columns that are gone."""

from collections.abc import Sequence

from torch import Tensor

from cnnkern.reference.conv2d import conv2d
from cnnkern.reference.im2col import IntPair


def with_zeros(
    weight: Tensor, columns: Tensor, *, in_channels: int, kernel_size: IntPair, groups: int = 1
) -> Tensor:
    """The dense weight (K, C/G, kH, kW) of the kept columns `weight` (K, nnz).

    `columns` (nnz), or (G, nnz) for G groups, are indices (c·kH + i)·kW + j into the (C/G)·kH·kW axis.
    """
    kernel_h, kernel_w = kernel_size if isinstance(kernel_size, Sequence) else (kernel_size, kernel_size)
    k, kept = weight.shape
    size = in_channels // groups, kernel_h, kernel_w
    index = columns.long().view(groups, 1, kept).expand(-1, k // groups, -1)
    dense = weight.new_zeros(groups, k // groups, size[0] * kernel_h * kernel_w)
    return dense.scatter(2, index, weight.view(index.shape)).view(k, *size)


def column_sparse_conv2d(
    x: Tensor,
    weight: Tensor,
    columns: Tensor,
    bias: Tensor | None = None,
    *,
    kernel_size: IntPair,
    stride: IntPair = 1,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    groups: int = 1,
) -> Tensor:
    """Convolution of `x` (N, C, H, W) with the weight of `with_zeros` and `bias` (K)."""
    dense = with_zeros(weight, columns, in_channels=x.shape[1], kernel_size=kernel_size, groups=groups)
    return conv2d(x, dense, bias, stride=stride, padding=padding, dilation=dilation, groups=groups)
