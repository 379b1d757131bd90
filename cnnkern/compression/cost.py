"""What a layer costs by arithmetic: FLOPs and bytes.

A multiply-add is two FLOPs, and those that meet padding are counted, as everybody counts them; a layer
without multiply-adds costs none. Bytes are the compulsory traffic of one call: what goes in, weights, and
what comes out, once each. Neither is a time: see `cnnkern.profile`.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from cnnkern.nn import ColumnSparseConv2d, CPConv2d, PerforatedConv2d
from cnnkern.nn.convolution import Convolution2d


@dataclass(frozen=True)
class ConvolutionCost:
    """FLOPs of a convolution of N maps, and of its approximations: sizes are (H, W) and (oH, oW)."""

    N: int
    C: int
    K: int
    kernel: tuple[int, int]
    size: tuple[int, int]
    output_size: tuple[int, int]
    groups: int = 1

    @property
    def columns(self) -> int:
        """Of the weight matrix of a group: C/G·kH·kW."""
        return self.C // self.groups * math.prod(self.kernel)

    @property
    def dense_flops(self) -> int:
        return self.column_sparse_flops(self.columns)

    def column_sparse_flops(self, kept: int) -> int:
        """Of `kept` columns in each group."""
        return 2 * self.N * self.K * kept * math.prod(self.output_size)

    def perforated_flops(self, kept: int) -> int:
        """Of `kept` outputs in each map."""
        return 2 * self.N * self.K * self.columns * kept

    def cp_flops(self, rank: int) -> int:
        """Of the four convolutions in their order: 1×1, kH×1 depthwise, 1×kW depthwise, 1×1."""
        (kH, kW), (H, W), (oH, oW) = self.kernel, self.size, self.output_size
        ends = self.C // self.groups * H * W + self.K // self.groups * oH * oW
        return 2 * self.N * rank * (ends + kH * oH * W + kW * oH * oW)


def flops(module: nn.Module, inputs: Any, output: Any) -> int:
    """FLOPs of one call of a leaf module, from its arguments and what it returned (nests of tensors).

    Convolutions of any number of dimensions, linear layers, batch norms and the layers of `cnnkern.nn` have
    some, each of ours its own; another layer has none.
    """
    x, y = next(tensors(inputs), None), next(tensors(output), None)
    if x is None or y is None:
        return 0
    if isinstance(module, Convolution2d):
        return _of_our_convolution(module, x, y)
    if isinstance(module, _ConvNd):
        # each entry of the longer side meets the kernel once: the output, or in a transposed one the input
        meets = x if isinstance(module, _ConvTransposeNd) else y
        return 2 * meets.numel() * module.weight[0].numel()
    if isinstance(module, nn.Linear) or _has_features(module):
        return 2 * y.numel() * module.in_features
    if isinstance(module, _BatchNorm):
        return 2 * y.numel()
    return 0


def traffic(module: nn.Module, inputs: Any, output: Any) -> int:
    """Bytes that one call of a leaf module has to move at least: inputs, weights, buffers and outputs."""
    weights = [*module.parameters(), *module.buffers()]
    return sum(t.numel() * t.element_size() for t in (*weights, *tensors(inputs), *tensors(output)))


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in a nest of tuples, lists, mappings and data classes."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors(item)
    elif is_dataclass(value):
        for each in fields(value):
            yield from tensors(getattr(value, each.name))


def _of_our_convolution(module: Convolution2d, x: Tensor, y: Tensor) -> int:
    batch = x.shape[0] if x.dim() == 4 else 1
    sizes = tuple(x.shape[-2:]), tuple(y.shape[-2:])
    cost = ConvolutionCost(
        batch, module.in_channels, module.out_channels, module.kernel_size, *sizes, module.groups
    )
    if isinstance(module, CPConv2d):
        return cost.cp_flops(module.rank)
    if isinstance(module, ColumnSparseConv2d):
        return cost.column_sparse_flops(module.columns.shape[-1])
    if isinstance(module, PerforatedConv2d) and module.mask is not None:
        return cost.perforated_flops(int(module.mask.sum()))
    return cost.dense_flops


def _has_features(module: nn.Module) -> bool:
    """A linear layer that is no `torch.nn.Linear`, such as a quantized one."""
    return hasattr(module, "in_features") and hasattr(module, "out_features")
