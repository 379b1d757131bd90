"""The last linear map of a layer, fitted anew to what the layer should give: a least-squares problem.

Zhang, Zou, He, Sun: Accelerating Very Deep Convolutional Networks for Classification and Detection, TPAMI
2016: the input is that of the compressed network so far and the target that of the original one (asymmetric),
so that errors do not pile up from layer to layer. Here the change of the weight is what is solved for, with a
ridge that holds it near the fitted one, over positions that are drawn at random; a part of them, held out,
decides how strong the ridge is, and whether there is a change at all.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cnnkern.compression.int8 import calibrated
from cnnkern.nn import (
    ColumnSparseConv2d,
    ConvolutionChain,
    CPConv2d,
    Im2colConv2d,
    Int8Conv2d,
    PerforatedConv2d,
)
from cnnkern.nn.column_sparse_conv2d import SelectChannels
from cnnkern.nn.convolution import Convolution2d
from cnnkern.ops import im2col

RIDGES = (1e-4, 1e-2, 1.0)  # times the mean square of an unknown's feature
POSITIONS_PER_UNKNOWN = 4
MOST_POSITIONS = 16384
MOST_UNKNOWNS = 5000  # of an output channel: beyond, the normal equations take too long
HELD_OUT = 0.25

Pairs = Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Refit:
    """The layer, and its relative error on held-out positions before and after; equal if nothing changed."""

    layer: nn.Module
    before: float
    after: float


@dataclass
class _LastMap:
    """The convolution that a layer ends with: its input is that of the layer after `head`."""

    head: nn.Module
    conv: Convolution2d
    columns: Tensor | None  # of the weight matrix; all, if None
    sources: Tensor | None  # which output each output shows; itself, if None


@torch.no_grad()
def refit(layer: nn.Module, pairs: Pairs, seed: int = 0) -> Refit:
    """A copy of `layer` whose last weights bring it nearest to the targets.

    Args:
        layer: a layer of `cnnkern.nn`, or a chain of convolutions, in eval mode and on the CPU.
        pairs: inputs (N, C, H, W) and targets (N, K, oH, oW).
        seed: of the positions.

    A layer with groups is returned as it is, and so is one with more unknowns than can be solved for. An int8
    one is calibrated instead.
    """
    if isinstance(layer, Int8Conv2d):
        found = calibrated(layer, pairs)
        return Refit(found, relative_error(layer, pairs), relative_error(found, pairs))
    layer = copy.deepcopy(layer)
    last = _last_map(layer)
    unknowns = 0 if last is None else _unknowns(last)
    if last is None or unknowns > MOST_UNKNOWNS:
        error = relative_error(layer, pairs)
        return Refit(layer, error, error)
    features, missing, targets = _samples(layer, last, pairs, unknowns, seed)
    held = int(len(features) * HELD_OUT)
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
    test, train = order[:held], order[held:]
    norm = targets[test].norm().item() or 1.0
    before = best = missing[test].norm().item() / norm
    change = None
    matrix = features[train].T @ features[train]
    right = features[train].T @ missing[train]
    for ridge in RIDGES:
        solved = _solve(matrix, right, ridge)
        if solved is not None:
            error = (missing[test] - features[test] @ solved).norm().item() / norm
            if math.isfinite(error) and error < best:
                best, change = error, solved
    if change is not None:
        _add(last, layer, change)
    return Refit(layer, before, best)


@torch.no_grad()
def relative_error(layer: nn.Module, pairs: Pairs) -> float:
    """‖layer(x) − y‖ / ‖y‖ over all pairs."""
    missing = sum((layer(x) - y).double().square().sum().item() for x, y in pairs)
    return math.sqrt(missing / (sum(y.double().square().sum().item() for _, y in pairs) or 1.0))


def _last_map(layer: nn.Module) -> _LastMap | None:
    nothing = nn.Identity()
    if isinstance(layer, ConvolutionChain):
        inner = _last_map(layer[-1])
        return None if inner is None else _LastMap(layer[:-1], inner.conv, inner.columns, inner.sources)
    if isinstance(layer, SelectChannels) or layer.groups > 1:
        return None
    if isinstance(layer, CPConv2d):
        stages = layer.to_stock()
        return _LastMap(stages[:-1], Im2colConv2d.from_conv(stages[-1]), None, None)
    if isinstance(layer, ColumnSparseConv2d):
        return _LastMap(nothing, layer, layer.columns.long(), None)
    if isinstance(layer, PerforatedConv2d):
        shown = torch.ops.cnnkern.perforated_conv2d_sources(layer.mask, layer.interpolation == "nearest")
        return _LastMap(nothing, layer, None, shown.flatten().long()) if bool((shown >= 0).all()) else None
    if isinstance(layer, nn.Conv2d):
        return _LastMap(nothing, Im2colConv2d.from_conv(layer), None, None)
    return _LastMap(nothing, layer, None, None) if isinstance(layer, Im2colConv2d) else None


def _unknowns(last: _LastMap) -> int:
    """Weights of one output channel, and its bias."""
    conv = last.conv
    every = conv.in_channels * math.prod(conv.kernel_size)
    return (every if last.columns is None else len(last.columns)) + 1


def _samples(
    layer: nn.Module, last: _LastMap, pairs: Pairs, unknowns: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """At positions drawn evenly from all images: features (P, F) with a one for the bias, what is missing in
    the layer's output (P, K), and the target (P, K); float64."""
    images = sum(len(x) for x, _ in pairs)
    wanted = min(MOST_POSITIONS, POSITIONS_PER_UNKNOWN * unknowns)
    each = max(1, -(-wanted // images))
    generator = torch.Generator().manual_seed(seed)
    gathered = []
    for x, y in pairs:
        now, inputs = layer(x), last.head(x)
        for image in range(len(x)):
            area = y[image, 0].numel()
            chosen = torch.randperm(area, generator=generator)[:each]
            patches = _patches(last.conv, inputs[image : image + 1])
            patches = patches if last.columns is None else patches[last.columns]
            shown = chosen if last.sources is None else last.sources[chosen]
            features = torch.cat([patches[:, shown].T, torch.ones(len(chosen), 1)], dim=1)
            target = y[image].flatten(1)[:, chosen].T
            missing = target.double() - now[image].flatten(1)[:, chosen].T.double()
            gathered.append((features.double(), missing, target.double()))
    features, missing, targets = (torch.cat(parts) for parts in zip(*gathered, strict=True))
    return features, missing, targets


def _patches(conv: Convolution2d, x: Tensor) -> Tensor:
    """(C·kH·kW, oH·oW) of one image, padded as the convolution pads."""
    margins, padding = conv._split_padding()
    padded = x if margins is None else conv._padded(x, margins)
    return im2col(padded, conv.kernel_size, stride=conv.stride, padding=padding, dilation=conv.dilation)[0]


def _solve(matrix: Tensor, right: Tensor, ridge: float) -> Tensor | None:
    """(F, K), or None where the matrix is singular to rounding."""
    damped = matrix.clone()
    damped.diagonal().add_(ridge * matrix.diagonal().mean().clamp_min(1e-30))
    factor, failed = torch.linalg.cholesky_ex(damped)
    return None if failed else torch.cholesky_solve(right, factor)


def _add(last: _LastMap, layer: nn.Module, change: Tensor) -> None:
    """Add the change (F, K) to the weight and the bias; a layer without a bias gets one."""
    owner = layer[-1] if isinstance(layer, ConvolutionChain) else layer
    weight = owner.factor_k if isinstance(owner, CPConv2d) else owner.weight
    weight += change[:-1].T.reshape(weight.shape).to(weight.dtype)
    bias = change[-1].to(weight.dtype)
    if owner.bias is None:
        owner.bias = nn.Parameter(bias.clone(), requires_grad=weight.requires_grad)
    else:
        owner.bias += bias
