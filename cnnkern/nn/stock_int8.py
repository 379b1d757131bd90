"""What the int8 layers stand for in stock PyTorch: its quantized operations between conversions."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnkern.nn.int8 import Int8Layer


class _StockInt8(nn.Module):
    """Integers in, as torch's quantized tensors through one operation, and out as the layer has them."""

    def __init__(self, layer: Int8Layer) -> None:
        super().__init__()
        self.x_dtype, self.activation = layer.x_dtype, layer.activation
        self.x_scale, self.x_zero_point, self.out_scale, self.out_zero_point = layer.numbers()
        zeros = torch.zeros(len(layer.weight_scale), dtype=torch.int64)
        self.weight = torch._make_per_channel_quantized_tensor(
            layer.weight, layer.weight_scale.double(), zeros, 0
        )
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """`x` of x_dtype."""
        shift = 0 if self.x_dtype is torch.uint8 else 128  # torch's operations know uint8 alone
        unsigned = x if not shift else (x.to(torch.int16) + shift).to(torch.uint8)
        y = self._compute(
            torch._make_per_tensor_quantized_tensor(unsigned, self.x_scale, self.x_zero_point + shift),
            self.out_zero_point + shift,
        )
        if self.out_scale is None:
            return y
        return y.int_repr() if not shift else (y.int_repr().to(torch.int16) - shift).to(torch.int8)

    def _compute(self, x: Tensor, out_zero_point: int) -> Tensor:
        """The quantized output, or a float32 one."""
        raise NotImplementedError


class StockInt8Conv2d(_StockInt8):
    """`torch.ops.quantized.conv2d` of an `Int8Conv2d`, in the quantized engine in force when it is made.

    torch requantizes to 8 bits alone: where the layer gives float32, this computes with the integers made
    real.
    """

    def __init__(self, layer: Int8Layer, margins: Sequence[int] | None, padding: Sequence[int]) -> None:
        super().__init__(layer)
        self.margins = margins
        self.pad = {"mode": layer.padding_mode}
        if layer.padding_mode == "zeros":
            self.pad = {"value": self.x_zero_point}
        self.geometry: tuple[Any, ...] = layer.stride, padding, layer.dilation, layer.groups
        self.packed = torch.ops.quantized.conv2d_prepack(self.weight, self.bias, *self.geometry)
        self.operation = (
            torch.ops.quantized.conv2d_relu if self.activation == "relu" else torch.ops.quantized.conv2d
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.margins is not None:
            x = F.pad(x, self.margins, **self.pad)
        return super().forward(x)

    def _compute(self, x: Tensor, out_zero_point: int) -> Tensor:
        if self.out_scale is not None:
            return self.operation(x, self.packed, self.out_scale, out_zero_point)
        y = F.conv2d(x.dequantize(), self.weight.dequantize(), self.bias, *self.geometry)
        return y.relu_() if self.activation == "relu" else y


class StockInt8Linear(_StockInt8):
    """`torch.ops.quantized.linear` of an `Int8Linear`, in the quantized engine in force when it is made; as
    `StockInt8Conv2d` otherwise."""

    def __init__(self, layer: Int8Layer) -> None:
        super().__init__(layer)
        self.packed = torch.ops.quantized.linear_prepack(self.weight, self.bias)
        self.operation = (
            torch.ops.quantized.linear_relu if self.activation == "relu" else torch.ops.quantized.linear
        )

    def _compute(self, x: Tensor, out_zero_point: int) -> Tensor:
        if self.out_scale is not None:
            return self.operation(x, self.packed, self.out_scale, out_zero_point)
        y = F.linear(x.dequantize(), self.weight.dequantize(), self.bias)
        return y.relu_() if self.activation == "relu" else y
