"""Dense convolution by lowering, as a layer."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnkern.nn.dense_convolution import DenseConvolution2d
from cnnkern.ops import conv2d
from cnnkern.ops.arguments import IntPair, Pair


class Im2colConv2d(DenseConvolution2d):
    """`torch.nn.Conv2d`, computed by im2col inside the packing of a blocked GEMM.

    The arguments and attributes are those of `torch.nn.Conv2d`, and so are the initial values and the names
    in the state dict. See `repack` for when to call it.

    Raises:
        ValueError: a number that cannot be, such as channels that the groups do not divide.
        TypeError: an argument that is no int, or no pair of ints.
    """

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
            *(in_channels, out_channels, kernel_size, stride, padding, dilation, groups),
            *(bias, padding_mode, device, dtype),
        )

    @classmethod
    def from_conv(cls, conv: nn.Conv2d) -> "Im2colConv2d":
        """The layer that computes what `conv` does, with a copy of its weights, on its device."""
        return cls._of_conv(conv)

    def to_stock(self) -> nn.Conv2d:
        """The fastest stock module that computes the same: that of `to_conv`."""
        return self.to_conv()

    def stock_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What the layer computes with another weight and bias, by the stock convolution; differentiable."""
        x, padding = self._split_and_pad(x)
        return F.conv2d(x, weight, bias, self.stride, padding, self.dilation, self.groups)

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
