"""Convolution of 8-bit integers, as a layer.

Jacob et al.: Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
CVPR 2018.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from cnnkern.nn.convolution import arguments_of, check_conv, dense_conv
from cnnkern.nn.int8_convolution import Int8Convolution2d
from cnnkern.nn.stock_int8 import StockInt8Conv2d
from cnnkern.ops import int8_conv2d
from cnnkern.ops.arguments import IntPair, Pair
from cnnkern.ops.int8_arguments import check_sum


class Int8Conv2d(Int8Convolution2d):
    """A convolution with int8 weights of integers (uint8 or int8), summed in int32 and then made integers or
    float32 again in the same pass.

    An input x stands for x_scale·(x − x_zero_point), a weight of output channel k for weight_scale[k]·weight;
    with an out_scale the output is integers of x's type that stand for out_scale·(y − out_zero_point), else
    float32. Padding is with the integer that stands for zero. An input of real numbers is quantized first.

    The arguments and attributes are those of `torch.nn.Conv2d`, and
        x_scale, x_zero_point, out_scale, out_zero_point: as above, buffers; out_scale may be None.
        activation: None or "relu", applied to the output.
        x_dtype: torch.uint8 or torch.int8, the type of inputs.
    All tensors are buffers: weight (K, C/groups, kH, kW) int8, weight_scale (K) and bias (K) float32. A new
    layer has zeros in them: see `from_conv`. It has nothing to train; see cnnkern.quantization for that.

    Raises:
        ValueError: a number that cannot be, such as a zero point that x_dtype does not have.
        TypeError: an argument that is no number, or no pair of ints.
    """

    packed_operation = torch.ops.cnnkern.int8_conv2d_packed.default

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntPair,
        stride: IntPair = 1,
        padding: IntPair | str = 0,
        dilation: IntPair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        *,
        x_scale: float,
        x_zero_point: int,
        out_scale: float | None = None,
        out_zero_point: int = 0,
        activation: str | None = None,
        x_dtype: torch.dtype = torch.uint8,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode
        )
        size = (out_channels, in_channels // groups, *self.kernel_size)
        check_sum("in_channels, kernel_size", math.prod(size[1:]))
        numbers = x_scale, x_zero_point, out_scale, out_zero_point
        self._add_integers(size, bias, device, numbers, activation, x_dtype)

    @classmethod
    def from_conv(
        cls,
        conv: nn.Conv2d,
        x_scale: float,
        x_zero_point: int,
        *,
        out_scale: float | None = None,
        out_zero_point: int = 0,
        activation: str | None = None,
        x_dtype: torch.dtype = torch.uint8,
        weight_scale: Tensor | None = None,
    ) -> "Int8Conv2d":
        """The layer with the weight of `conv` in integers and a copy of its bias, on its device.

        `weight_scale` (K) is by default the greatest magnitude of each output channel / 127; the integers are
        those nearest to weight / weight_scale, clamped to [−127, 127]. The rest is as for the constructor.
        """
        check_conv(conv)
        layer = cls(
            **arguments_of(conv),
            device=conv.weight.device,
            x_scale=x_scale,
            x_zero_point=x_zero_point,
            out_scale=out_scale,
            out_zero_point=out_zero_point,
            activation=activation,
            x_dtype=x_dtype,
        )
        layer._set_weight(conv.weight.detach(), weight_scale, conv.bias)
        return layer.train(conv.training)

    def to_conv(self) -> nn.Conv2d:
        """The `torch.nn.Conv2d` with the weight and bias that the integers stand for; no activation."""
        return dense_conv(self, self.real_weight(), self.weight_scale).requires_grad_()

    def to_stock(self) -> nn.Module:
        """The fastest stock module that computes the same: torch's own quantized convolution, which rounds
        what it computes in its own way, between a conversion of its input and one of its output."""
        return StockInt8Conv2d(self, *self._split_padding())

    @property
    def packed_last_arguments(self) -> tuple[Any, ...]:
        return (self.weight_scale, *self.numbers(), self.relu)

    def _pack(self) -> tuple[Tensor, tuple[int, ...]]:
        return torch.ops.cnnkern.int8_conv2d_pack.default(self.weight, self.groups), tuple(self.weight.shape)

    def _convolve(self, x: Tensor, padding: Pair) -> Tensor:
        return int8_conv2d(
            x, self.weight, self.bias, weight_scale=self.weight_scale, **self._options(padding)
        )
