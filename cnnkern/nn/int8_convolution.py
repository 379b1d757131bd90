"""What the int8 convolution layers share: inputs made integers, padding with a zero point, packed buffers."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnkern.nn.convolution import Convolution2d, Margins, _Packed
from cnnkern.nn.int8 import Int8Layer
from cnnkern.ops.arguments import memory_format
from cnnkern.ops.dispatch import run_without_gradient


class Int8Convolution2d(Int8Layer, Convolution2d):
    """Base of the int8 convolutions, all of whose tensors are buffers."""

    packed_parameters = ()

    def forward(self, x: Tensor) -> Tensor:
        """The convolution of `x` (N, C, H, W) or (C, H, W), integers of x_dtype or real numbers."""
        return super().forward(self.integers(x))

    def _forward_packed(self, x: Tensor, packed: _Packed) -> Tensor:
        if packed.margins is not None:
            x = self._padded(x, packed.margins)
        bias = self._buffers["bias"]
        return run_without_gradient(self.packed_operation, x, packed.weights, bias, *packed.arguments)

    def _can_pack(self) -> bool:
        kept = [self._buffers.get(name) for name in self.packed_buffers]
        usable = all(buffer is None or not buffer.is_inference() for buffer in kept)
        return usable and not torch._C._are_functorch_transforms_active()

    def _padded(self, x: Tensor, margins: Margins) -> Tensor:
        if self.padding_mode != "zeros":
            return super()._padded(x, margins)
        return F.pad(x, margins, value=self._numbers[1]).contiguous(memory_format=memory_format(x))

    def _options(self, padding: Any) -> dict[str, Any]:
        """What the plain operations take besides tensors."""
        x_scale, x_zero_point, out_scale, out_zero_point = self.numbers()
        return {
            "x_scale": x_scale,
            "x_zero_point": x_zero_point,
            "out_scale": out_scale,
            "out_zero_point": out_zero_point,
            "stride": self.stride,
            "padding": padding,
            "dilation": self.dilation,
            "groups": self.groups,
            "activation": self.activation,
        }
