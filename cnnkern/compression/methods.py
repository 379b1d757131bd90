"""The ways to replace a convolution: which strengths of each are worth trying, and how one is made.

A strength is a rank (or two), a density, or a rate. Ranks are multiples of 16, which fill the kernels' tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cnnkern.compression.cost import ConvolutionCost
from cnnkern.compression.int8 import without_grid
from cnnkern.decomposition import biclustered, spatial_svd, tucker2
from cnnkern.nn import ColumnSparseConv2d, ConvolutionChain, CPConv2d, Im2colConv2d, PerforatedConv2d
from cnnkern.nn.column_sparse_conv2d import SelectChannels
from cnnkern.nn.convolution import arguments_of, parameter_like
from cnnkern.perforation import grid
from cnnkern.quantization.operations import why_not_int8

TILE = 16  # of ranks
FLOP_SHARES = (0.4, 0.25, 0.15, 0.08)  # of the dense layer's, that ranks are chosen for
CHANNEL_SHARES = (0.75, 0.5, 0.35, 0.25)
DENSITIES = (0.5, 0.35, 0.25, 0.15, 0.08)
RATES = (0.3, 0.5, 0.7)
CLUSTERS = (2, 2)  # of input and output channels
CLUSTER_SHARES = (0.5, 0.35, 0.25)  # of a cluster's channels, that ranks are

Strength = int | float | tuple[int, int] | None


@dataclass(frozen=True)
class Method:
    """A way to replace a convolution.

    Attributes:
        strengths: those worth a try, for a convolution and its cost.
        make: the layer for (conv, strength, output size, seed); it is not changed.
        blank: a layer of the same structure for (conv, strength), made at once; None where `make` is quick.
        label: names a strength.
        exact: whether nothing is lost.
    """

    strengths: Callable[[nn.Conv2d, ConvolutionCost], Sequence[Strength]]
    make: Callable[[nn.Conv2d, Strength, tuple[int, int], int], nn.Module]
    label: Callable[[Strength], str]
    blank: Callable[[nn.Conv2d, Strength], nn.Module] | None = None
    exact: bool = False


def _dense(conv: nn.Conv2d, *_: object) -> nn.Module:
    return Im2colConv2d.from_conv(conv)


def _cp_ranks(conv: nn.Conv2d, cost: ConvolutionCost) -> list[int]:
    if conv.groups > 1:
        return []
    return _multiples(cost.dense_flops / cost.cp_flops(1))


def _cp(conv: nn.Conv2d, rank: int, _: object, seed: int) -> nn.Module:
    return CPConv2d.from_conv(conv, rank=rank, seed=seed, verbose=False)


def _blank_cp(conv: nn.Conv2d, rank: int) -> nn.Module:
    return CPConv2d(**arguments_of(conv), rank=rank)


def _spatial_ranks(conv: nn.Conv2d, cost: ConvolutionCost) -> list[int]:
    (kH, kW), (_, W), (oH, oW) = cost.kernel, cost.size, cost.output_size
    if conv.groups > 1 or kH == 1 or kW == 1 or conv.padding_mode != "zeros":
        return []
    per_rank = 2 * cost.N * (cost.C * kH * oH * W + cost.K * kW * oH * oW)
    most = min(cost.K * kW, cost.C * kH)
    return [rank for rank in _multiples(cost.dense_flops / per_rank) if rank <= most]


def _spatial(conv: nn.Conv2d, rank: int, *_: object) -> nn.Module:
    factors = spatial_svd(conv.weight.detach(), rank)
    return _filled(_blank_spatial(conv, rank), (factors.vertical, factors.horizontal), conv)


def _blank_spatial(conv: nn.Conv2d, rank: int) -> ConvolutionChain:
    """kH×1 with the rows' stride, padding and dilation, then 1×kW with the columns'."""
    (kH, kW), (sH, sW), (dH, dW) = conv.kernel_size, conv.stride, conv.dilation
    same = isinstance(conv.padding, str)
    pH, pW = (conv.padding, conv.padding) if same else ((conv.padding[0], 0), (0, conv.padding[1]))
    return ConvolutionChain(
        nn.Conv2d(conv.in_channels, rank, (kH, 1), (sH, 1), pH, (dH, 1), bias=False),
        nn.Conv2d(rank, conv.out_channels, (1, kW), (1, sW), pW, (1, dW), bias=conv.bias is not None),
    )


def _tucker_ranks(conv: nn.Conv2d, cost: ConvolutionCost) -> list[tuple[int, int]]:
    if conv.groups > 1 or cost.kernel == (1, 1):
        return []
    found = [
        tuple(round(share * size / TILE) * TILE for size in (cost.C, cost.K)) for share in CHANNEL_SHARES
    ]
    return [ranks for ranks in dict.fromkeys(found) if 0 < ranks[0] <= cost.C and 0 < ranks[1] <= cost.K]


def _tucker(conv: nn.Conv2d, ranks: tuple[int, int], *_: object) -> nn.Module:
    factors = tucker2(conv.weight.detach(), ranks)
    parts = factors.factor_c[..., None, None], factors.core, factors.factor_k[..., None, None]
    return _filled(_blank_tucker(conv, ranks), parts, conv)


def _blank_tucker(conv: nn.Conv2d, ranks: tuple[int, int]) -> ConvolutionChain:
    """1×1 to the first rank, the core with the convolution's geometry, 1×1 from the second."""
    core = {**arguments_of(conv), "in_channels": ranks[0], "out_channels": ranks[1], "bias": False}
    return ConvolutionChain(
        nn.Conv2d(conv.in_channels, ranks[0], 1, bias=False),
        nn.Conv2d(**core),
        nn.Conv2d(ranks[1], conv.out_channels, 1, bias=conv.bias is not None),
    )


def _biclustered_ranks(conv: nn.Conv2d, cost: ConvolutionCost) -> list[tuple[int, int]]:
    if conv.groups > 1 or cost.kernel == (1, 1) or cost.C % CLUSTERS[0] or cost.K % CLUSTERS[1]:
        return []
    sizes = cost.C // CLUSTERS[0], cost.K // CLUSTERS[1]
    found = [tuple(round(share * size / TILE) * TILE for size in sizes) for share in CLUSTER_SHARES]
    return [ranks for ranks in dict.fromkeys(found) if min(ranks) > 0]


def _biclustered(conv: nn.Conv2d, ranks: tuple[int, int], _: object, seed: int) -> nn.Module:
    factors = biclustered(conv.weight.detach(), CLUSTERS, ranks, seed=seed)
    chain = _blank_biclustered(conv, ranks)
    chain[0].index = factors.inputs.flatten().repeat(CLUSTERS[1])
    chain[-1].index = factors.outputs.flatten().argsort()
    last = factors.factor_k.transpose(1, 2).flatten(2).flatten(0, 1)
    parts = factors.factor_c.flatten(0, 2)[..., None, None], factors.core.flatten(0, 2), last[..., None, None]
    _filled(chain[1:-1], parts, conv)
    if conv.bias is not None:
        chain[-2].bias = parameter_like(conv.bias[factors.outputs.flatten()], conv.bias)
    return chain.train(conv.training)


def _blank_biclustered(conv: nn.Conv2d, ranks: tuple[int, int]) -> ConvolutionChain:
    """The inputs of each cluster, for each cluster of outputs; 1×1, the cores and 1×1 in groups; the outputs
    in their order."""
    (G, H), (rank_c, rank_k) = CLUSTERS, ranks
    C, K = conv.in_channels, conv.out_channels
    core = {"in_channels": H * G * rank_c, "out_channels": H * G * rank_k, "groups": H * G, "bias": False}
    return ConvolutionChain(
        SelectChannels(torch.arange(C).repeat(H)),
        nn.Conv2d(H * C, H * G * rank_c, 1, groups=H * G, bias=False),
        nn.Conv2d(**{**arguments_of(conv), **core}),
        nn.Conv2d(H * G * rank_k, K, 1, groups=H, bias=conv.bias is not None),
        SelectChannels(torch.arange(K)),
    )


def _densities(conv: nn.Conv2d, cost: ConvolutionCost) -> list[float]:
    return [density for density in DENSITIES if round(density * cost.columns) >= 1]


def _column_sparse(conv: nn.Conv2d, density: float, *_: object) -> nn.Module:
    return ColumnSparseConv2d.from_conv(conv, density=density)


def _rates(conv: nn.Conv2d, cost: ConvolutionCost) -> list[float]:
    return list(RATES) if min(cost.output_size) > 1 else []


def _perforated(conv: nn.Conv2d, rate: float, size: tuple[int, int], _: int) -> nn.Module:
    return PerforatedConv2d.from_conv(conv, mask=grid(size, rate))


def _int8_strengths(conv: nn.Conv2d, _: object) -> list[None]:
    return [] if why_not_int8(conv) else [None]


def _int8(conv: nn.Conv2d, *_: object) -> nn.Module:
    return without_grid(conv)


METHODS: dict[str, Method] = {
    "cp": Method(_cp_ranks, _cp, "rank {}".format, _blank_cp),
    "spatial_svd": Method(_spatial_ranks, _spatial, "rank {}".format, _blank_spatial),
    "tucker2": Method(_tucker_ranks, _tucker, lambda ranks: "ranks {}, {}".format(*ranks), _blank_tucker),
    "column_sparse": Method(_densities, _column_sparse, "density {:g}".format),
    "perforated": Method(_rates, _perforated, "rate {:g}".format),
    "int8": Method(_int8_strengths, _int8, lambda _: "weights and inputs"),
    "biclustered": Method(
        _biclustered_ranks, _biclustered, "2 × 2 clusters, ranks {0[0]}, {0[1]}".format, _blank_biclustered
    ),
}
DEFAULT_METHODS = tuple(name for name in METHODS if name != "biclustered")
DENSE = Method(lambda *_: [None], _dense, lambda _: "the same weights", exact=True)


def method_named(name: str) -> Method:
    return DENSE if name == "dense" else METHODS[name]


def forms(layer: nn.Module) -> dict[str, nn.Module]:
    """What computes the same: a chain of stock convolutions, and one of ours; another layer as it is."""
    if type(layer) is not ConvolutionChain:
        return {"": layer}
    ours = ConvolutionChain(
        *(Im2colConv2d.from_conv(part) if isinstance(part, nn.Conv2d) else part for part in layer)
    )
    return {"stock": layer, "ours": ours.train(layer.training)}


def _multiples(most: float) -> list[int]:
    """Multiples of TILE that are nearly the FLOP_SHARES of `most`, the rank that costs what the dense layer
    does."""
    ranks = (int(share * most) // TILE * TILE for share in FLOP_SHARES)
    return [rank for rank in dict.fromkeys(ranks) if rank >= TILE]


@torch.no_grad()
def _filled(chain: ConvolutionChain, weights: Sequence[Tensor], conv: nn.Conv2d) -> ConvolutionChain:
    """The chain with these weights and the bias of `conv`, on its device."""
    for part, weight in zip(chain, weights, strict=True):
        part.weight = parameter_like(weight, conv.weight)
    if conv.bias is not None:
        chain[-1].bias = parameter_like(conv.bias, conv.bias)
    return chain.train(conv.training)
