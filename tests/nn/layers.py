"""The layers under test, the arguments that they are built with, and what they have to compute."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnkern import reference
from cnnkern.nn import ColumnSparseConv2d, CPConv2d, Im2colConv2d, PerforatedConv2d
from cnnkern.perforation import uniform

LAYERS = (Im2colConv2d, CPConv2d, ColumnSparseConv2d, PerforatedConv2d)
Layer = Im2colConv2d | CPConv2d | ColumnSparseConv2d | PerforatedConv2d
ANY_SIZE = (Im2colConv2d, CPConv2d, ColumnSparseConv2d)  # of input; a mask fits one

ARGUMENTS: dict[str, dict[str, Any]] = {
    "plain": {"kernel_size": 3},
    "no bias": {"kernel_size": (3, 2), "bias": False},
    "stride": {"kernel_size": 3, "stride": (2, 1), "padding": 1},
    "dilation": {"kernel_size": (2, 3), "padding": (0, 2), "dilation": (3, 2)},
    "groups": {"kernel_size": 3, "padding": 1, "groups": 2},
    "depthwise": {"kernel_size": 3, "padding": 1, "groups": 6},
    "valid": {"kernel_size": 3, "padding": "valid"},
    "same": {"kernel_size": (3, 5), "padding": "same"},
    "same, even kernel": {"kernel_size": (2, 4), "padding": "same"},
    "same, dilation": {"kernel_size": (4, 3), "padding": "same", "dilation": (1, 2)},
    "same, reflect": {"kernel_size": (4, 3), "padding": "same", "padding_mode": "reflect"},
    "reflect": {"kernel_size": 3, "padding": (1, 2), "padding_mode": "reflect"},
    "replicate": {"kernel_size": 3, "padding": (1, 2), "stride": 2, "padding_mode": "replicate"},
    "circular": {"kernel_size": 3, "padding": (1, 2), "groups": 2, "padding_mode": "circular"},
    "float64": {"kernel_size": 3, "dtype": torch.float64},
}


def build(kind: type[Layer], in_channels: int = 6, out_channels: int = 12, **arguments: Any) -> Layer:
    """A layer of this kind: a CP layer of rank 12, which every number of groups here divides; a column-sparse
    one with every second column; a perforated one with half of the outputs of `image`."""
    arguments = {"kernel_size": 3, **arguments}
    if kind is CPConv2d:
        arguments.setdefault("rank", 12)
    if kind is ColumnSparseConv2d and "columns" not in arguments:
        dense = Im2colConv2d(in_channels, out_channels, **{**arguments, "device": "meta"})
        arguments["columns"] = every_second(dense.weight[0].numel(), dense.groups)
    if kind is PerforatedConv2d:
        arguments.setdefault("mask", uniform(output_size(**arguments), 0.5))
    return kind(in_channels, out_channels, **arguments)


def every_second(total: int, groups: int) -> Tensor:
    """Columns for `groups` groups that have `total` of them, other ones in each other group."""
    even = torch.arange(0, total, 2, dtype=torch.int32)
    columns = [even, total - 1 - even.flip(0)]
    return torch.stack([columns[g % 2] for g in range(groups)]) if groups > 1 else even


def output_size(**arguments: Any) -> tuple[int, int]:
    """(oH, oW) of a convolution of `image` with these arguments; 1 x 1 where they cannot be."""
    names = {"kernel_size", "stride", "padding", "dilation"}
    geometry = {"kernel_size": 3} | {name: arguments[name] for name in names & arguments.keys()}
    try:
        conv = nn.Conv2d(1, 1, **geometry, device="meta")
        return tuple(conv(torch.empty(1, 1, 9, 11, device="meta")).shape[2:])
    except (ArithmeticError, ValueError, TypeError, RuntimeError):
        return 1, 1


def convert(kind: type[Layer], conv: nn.Module) -> Layer:
    """`conv` as a layer of this kind; a CP layer of rank 6, a column-sparse one of density 0.5, a perforated
    one at rate 0.5."""
    options = {CPConv2d: {"rank": 6}, ColumnSparseConv2d: {"density": 0.5}, PerforatedConv2d: {"rate": 0.5}}
    return kind.from_conv(conv, **options.get(kind, {}))


def image(layer: Layer, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
    """A random input of the layer's dtype."""
    dtype = next(layer.parameters()).dtype
    return torch.randn(2, layer.in_channels, 9, 11, dtype=dtype).contiguous(memory_format=memory_format)


def assert_computes(y: Tensor, layer: Layer, x: Tensor) -> None:
    """Raise AssertionError unless `y` is what the layer stands for on `x`, within the bound of the oracle."""
    conv = nn.Conv2d(6, 12, layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(x, conv._reversed_padding_repeated_twice, mode)
    options = {"stride": layer.stride, "dilation": layer.dilation, "groups": layer.groups}
    if isinstance(layer, CPConv2d):
        factors = layer.factor_c, layer.factor_h, layer.factor_w, layer.factor_k
        reference.assert_within_bound(y, reference.cp_conv2d, padded, *factors, layer.bias, **options)
    elif isinstance(layer, ColumnSparseConv2d):
        arguments = padded, layer.weight, layer.columns, layer.bias
        options["kernel_size"] = layer.kernel_size
        reference.assert_within_bound(y, reference.column_sparse_conv2d, *arguments, **options)
    elif isinstance(layer, PerforatedConv2d):
        options["interpolation"] = layer.interpolation
        arguments = padded, layer.weight, layer.mask, layer.bias
        reference.assert_within_bound(y, reference.perforated_conv2d, *arguments, **options)
    else:
        reference.assert_within_bound(y, reference.conv2d, padded, layer.weight, layer.bias, **options)
