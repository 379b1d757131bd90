"""A compressed model in stock torch alone: what other software can be given, by `torch.export` or ONNX."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from cnnkern.compression.linking import unlink
from cnnkern.compression.recipe import OURS
from cnnkern.compression.running import check_model
from cnnkern.modules import unwrapped
from cnnkern.nn import Int8Conv2d, Int8Linear
from cnnkern.nn.int8 import Int8Layer


def to_stock(model: nn.Module) -> nn.Module:
    """A copy of a model with every layer of `cnnkern` in its stock form, in eval mode.

    Such a copy can be exported (`torch.onnx.export`, `torch.export`) and run where cnnkern is not. It is the
    `to_stock()` of each layer, except that an int8 layer between float32 ones rounds its input to its grid
    and computes the convolution of the real numbers that the integers stand for: the same sums, which
    software that takes the file may fuse.

    Raises TypeError for what is no `torch.nn.Module`, and ValueError for a layer that has no stock form yet.
    """
    check_model(model)
    model = copy.deepcopy(unwrapped(model))
    unlink(model)
    memo = {id(layer): _stock_form(layer).eval() for layer in model.modules() if type(layer) in OURS}
    stock = copy.deepcopy(model, memo).eval()
    for conv in stock.modules():
        if type(conv) is nn.Conv2d:
            _pad_by_numbers(conv)
    return stock


def _pad_by_numbers(conv: nn.Conv2d) -> None:
    """Padding 'same' as numbers, where it is as much on both sides: ONNX has it for no dilation but 1."""
    totals = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    if conv.padding == "same" and conv.padding_mode == "zeros" and not any(total % 2 for total in totals):
        conv.padding = tuple(total // 2 for total in totals)


def _stock_form(layer: nn.Module) -> nn.Module:
    if isinstance(layer, Int8Layer) and layer.out_scale is None:
        return OnGrid(layer)
    return layer.to_stock()


class OnGrid(nn.Module):
    """An int8 layer that gives float32, with real numbers in place of its integers."""

    def __init__(self, layer: Int8Conv2d | Int8Linear) -> None:
        super().__init__()
        self.scale, self.zero_point, *_ = layer.numbers()
        self.limits = torch.iinfo(layer.x_dtype).min, torch.iinfo(layer.x_dtype).max
        self.layer = layer.to_linear() if isinstance(layer, Int8Linear) else layer.to_conv()
        self.relu = layer.relu

    def forward(self, x: Tensor) -> Tensor:
        steps = (torch.round(x / self.scale) + self.zero_point).clamp(*self.limits) - self.zero_point
        y = self.layer(steps * self.scale)
        return y.relu() if self.relu else y
