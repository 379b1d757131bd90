"""Dense convolution by lowering, as a layer."""

import math

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
from cnnkern.ops import conv2d
from cnnkern.ops.arguments import IntPair, Pair


class Im2colConv2d(Convolution2d):
    """`torch.nn.Conv2d`, computed by im2col inside the packing of a blocked GEMM.

    The arguments and attributes are those of `torch.nn.Conv2d`, and so are the initial values and the names
    in the state dict. See `repack` for when to call it.

    Raises:
        ValueError: a number that cannot be, such as channels that the groups do not divide.
        TypeError: an argument that is no int, or no pair of ints.
    """

    packed_parameters = ("weight",)
    packed_operation = torch.ops.cnnkern.conv2d_packed.default
    packed_last_arguments = (False,)  # no ReLU

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
        dtype: torch.dtype | None = None,
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
    def from_conv(cls, conv: nn.Conv2d) -> "Im2colConv2d":
        """The layer that computes what `conv` does, with a copy of its weights, on its device."""
        check_conv(conv)
        layer = cls(**arguments_of(conv), device="meta", dtype=conv.weight.dtype)
        layer.weight = parameter_like(conv.weight, conv.weight)
        if conv.bias is not None:
            layer.bias = parameter_like(conv.bias, conv.bias)
        return layer.train(conv.training)

    def to_conv(self) -> nn.Conv2d:
        """The `torch.nn.Conv2d` that computes the same, with a copy of the weights."""
        return dense_conv(self, self.weight, self.weight)

    def to_stock(self) -> nn.Conv2d:
        """The fastest stock module that computes the same: that of `to_conv`."""
        return self.to_conv()

    def _convolve(self, x: Tensor, padding: Pair) -> Tensor:
        return conv2d(
            x,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=padding,
            dilation=self.dilation,
            groups=self.groups,
        )

    def _pack(self) -> tuple[Tensor, tuple[int, ...]]:
        return torch.ops.cnnkern.conv2d_pack.default(self.weight, self.groups), tuple(self.weight.shape)
