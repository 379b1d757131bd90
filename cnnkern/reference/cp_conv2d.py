"""CP convolution: a dense convolution with the weight that the factors stand for."""

import torch
from torch import Tensor

from cnnkern.reference.conv2d import conv2d
from cnnkern.reference.im2col import IntPair


def reconstruct(
    factor_c: Tensor, factor_h: Tensor, factor_w: Tensor, factor_k: Tensor, *, groups: int = 1
) -> Tensor:
    """The weight W[k,c,i,j] = Σ_r factor_k[k,r] factor_c[r,c] factor_h[r,i] factor_w[r,j], (K, C/G, kH, kW).

    Group g of G has the ranks g·R/G to (g+1)·R/G and the output channels g·K/G to (g+1)·K/G; `factor_k` is
    (K, R/G), the others have R rows.
    """
    components = torch.einsum("rc,ri,rj->rcij", factor_c, factor_h, factor_w)
    by_group = torch.bmm(
        factor_k.unflatten(0, (groups, -1)), components.flatten(1).unflatten(0, (groups, -1))
    )
    return by_group.reshape(-1, *components.shape[1:])


def cp_conv2d(
    x: Tensor,
    factor_c: Tensor,
    factor_h: Tensor,
    factor_w: Tensor,
    factor_k: Tensor,
    bias: Tensor | None = None,
    *,
    stride: IntPair = 1,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    groups: int = 1,
) -> Tensor:
    """Convolution of `x` (N, C, H, W) with the weight of `reconstruct` and `bias` (K)."""
    weight = reconstruct(factor_c, factor_h, factor_w, factor_k, groups=groups)
    return conv2d(x, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups)
