"""What the layers share that have the weight of the dense convolution."""

import math
from typing import Any, Self

import torch
from torch import Tensor, nn

from cnnkern.nn.convolution import (
    Convolution2d,
    arguments_of,
    check_conv,
    dense_conv,
    empty_parameter,
    parameter_like,
)
from cnnkern.ops.arguments import IntPair


class DenseConvolution2d(Convolution2d):
    """Base of the layers with a weight (K, C/groups, kH, kW)."""

    packed_parameters = ("weight",)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntPair,
        stride: IntPair,
        padding: IntPair | str,
        dilation: IntPair,
        groups: int,
        bias: bool,
        padding_mode: str,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode
        )
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        self.weight = empty_parameter(shape, device, dtype)
        self._add_bias(bias, device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights from the distribution that `torch.nn.Conv2d` draws from."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)

    @classmethod
    def _of_conv(cls, conv: nn.Conv2d, **own: Any) -> Self:
        """The layer with a copy of the weights of `conv`, on its device, and its own arguments `own`."""
        check_conv(conv)
        layer = cls(**arguments_of(conv), device="meta", dtype=conv.weight.dtype, **own)
        layer.weight = parameter_like(conv.weight, conv.weight)
        if conv.bias is not None:
            layer.bias = parameter_like(conv.bias, conv.bias)
        return layer.train(conv.training)

    def to_conv(self) -> nn.Conv2d:
        """The dense `torch.nn.Conv2d` that computes all outputs, with a copy of the weights."""
        return dense_conv(self, self.weight, self.weight)

    def _pack(self) -> tuple[Tensor, tuple[int, ...]]:
        return torch.ops.cnnkern.conv2d_pack.default(self.weight, self.groups), tuple(self.weight.shape)
