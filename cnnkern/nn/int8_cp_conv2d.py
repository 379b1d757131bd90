"""Fused CP convolution of 8-bit integers, as a layer.

Lebedev et al., Speeding-up Convolutional Neural Networks Using Fine-tuned CP-Decomposition, ICLR 2015; Jacob
et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR
2018.
"""

from typing import Any

import torch
from torch import Tensor, nn

from cnnkern.nn.convolution import arguments_of, check_count, parameter_like
from cnnkern.nn.cp_conv2d import CPConv2d
from cnnkern.nn.int8 import NUMBERS, Int8Layer, check_finite, quantized, quantized_weight
from cnnkern.nn.int8_convolution import Int8Convolution2d
from cnnkern.ops import int8_cp_conv2d
from cnnkern.ops.arguments import IntPair, Pair
from cnnkern.ops.int8_arguments import check_sum

FACTORS = ("factor_c", "factor_h", "factor_w", "factor_k", "factor_c_scale", "factor_k_scale")


class Int8CPConv2d(Int8Convolution2d):
    """`CPConv2d` with int8 factors in its two 1×1 stages, of integers (uint8 or int8).

    The depthwise stages between them, a small part of the work, are in float32 and never leave the cache;
    what they give is rounded to integers in [−127, 127], for which every component has a scale of its own: it
    is part of factor_w and factor_k.

    The arguments and attributes are those of `CPConv2d` and of `Int8Conv2d`. All tensors are buffers:
    factor_c (R, C/groups) and factor_k (K, R/groups) int8 with factor_c_scale (R) and factor_k_scale (K),
    factor_h (R, kH), factor_w (R, kW) and bias (K), float32, and the numbers. A new layer has zeros in the
    factors and the bias: see `from_cp`.

    Raises:
        ValueError: a number that cannot be, such as a rank that the groups do not divide.
        TypeError: an argument that is no number, or no pair of ints.
    """

    own_arguments = ("rank", *Int8Layer.own_arguments)
    packed_buffers = (*FACTORS, *NUMBERS)
    packed_operation = torch.ops.cnnkern.int8_cp_conv2d_packed.default

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
        rank: int,
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
        self.rank = check_count("rank", rank, groups)
        check_sum("in_channels", in_channels // groups)
        check_sum("rank", rank // groups)
        kernel_h, kernel_w = self.kernel_size
        with torch.inference_mode(False):
            for name, size in (
                ("factor_c", (rank, in_channels // groups)),
                ("factor_k", (out_channels, rank // groups)),
            ):
                self.register_buffer(name, torch.zeros(size, dtype=torch.int8, device=device))
                self.register_buffer(f"{name}_scale", torch.ones(size[0], device=device))
            self.register_buffer("factor_h", torch.zeros(rank, kernel_h, device=device))
            self.register_buffer("factor_w", torch.zeros(rank, kernel_w, device=device))
        numbers = x_scale, x_zero_point, out_scale, out_zero_point
        self._add_numbers(out_channels, bias, device, numbers, activation, x_dtype)

    @classmethod
    def from_cp(
        cls,
        layer: CPConv2d,
        x_scale: float,
        x_zero_point: int,
        *,
        inner_scale: Tensor | float,
        out_scale: float | None = None,
        out_zero_point: int = 0,
        activation: str | None = None,
        x_dtype: torch.dtype = torch.uint8,
    ) -> "Int8CPConv2d":
        """The layer with the 1×1 factors of `layer` in integers and copies of the others, on its device.

        `inner_scale`, positive, (R) or one for all, is the step of what each component has after the
        depthwise stages: 127 of them are its range, such as `CPConv2d.inner_range` gives. The rest is as for
        the constructor; scales of factors are the greatest magnitudes of their rows / 127.
        """
        if not isinstance(layer, CPConv2d):
            raise TypeError(f"layer: expected a CPConv2d, got {type(layer).__name__}")
        int8 = cls(
            **arguments_of(layer),
            rank=layer.rank,
            device=layer.factor_c.device,
            x_scale=x_scale,
            x_zero_point=x_zero_point,
            out_scale=out_scale,
            out_zero_point=out_zero_point,
            activation=activation,
            x_dtype=x_dtype,
        )
        with torch.inference_mode(False), torch.no_grad():
            inner = _inner_scale(inner_scale, layer)
            c, h, w, k = (getattr(layer, name).float() for name in layer.packed_parameters)
            by_group = inner.view(layer.groups, 1, -1).expand(-1, layer.out_channels // layer.groups, -1)
            int8.factor_c, int8.factor_c_scale = quantized_weight(c, name="factor_c")
            k = k * by_group.reshape(k.shape)
            int8.factor_k, int8.factor_k_scale = quantized_weight(k, name="factor_k")
            int8.factor_h, int8.factor_w = h.clone(), w / inner[:, None]
            for name in ("factor_h", "factor_w"):
                check_finite(name, getattr(int8, name))
            int8._set_bias(layer.bias)
        return int8.train(layer.training)

    def to_cp(self) -> CPConv2d:
        """The `CPConv2d` with the factors and the bias that the integers stand for; no activation."""
        cp = CPConv2d(**arguments_of(self), rank=self.rank, device="meta")
        real = {
            "factor_c": self.factor_c * self.factor_c_scale[:, None],
            "factor_h": self.factor_h,
            "factor_w": self.factor_w,
            "factor_k": self.factor_k * self.factor_k_scale[:, None],
        }
        for name, values in real.items():
            setattr(cp, name, parameter_like(values, self.factor_h).requires_grad_())
        if self.bias is not None:
            cp.bias = parameter_like(self.bias, self.bias).requires_grad_()
        return cp.train(self.training)

    def to_conv(self) -> nn.Conv2d:
        """The dense `torch.nn.Conv2d` with the weight that the factors stand for; no activation."""
        return self.to_cp().to_conv()

    def to_stock(self) -> nn.Module:
        """The fastest stock module that computes the same: the four stock convolutions in float32, between a
        conversion of the input and one of the output."""
        return StockInt8CPConv2d(self)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rank={self.rank}"

    @property
    def packed_last_arguments(self) -> tuple[Any, ...]:
        return (self.factor_c_scale, self.factor_k_scale, *self.numbers(), self.relu)

    def _pack(self) -> tuple[Tensor, tuple[int, ...]]:
        factors = self.factor_c, self.factor_h, self.factor_w, self.factor_k
        packed = torch.ops.cnnkern.int8_cp_conv2d_pack.default(*factors, self.groups)
        return packed, (self.out_channels, self.rank, self.in_channels // self.groups, *self.kernel_size)

    def _convolve(self, x: Tensor, padding: Pair) -> Tensor:
        return int8_cp_conv2d(
            x,
            self.factor_c,
            self.factor_h,
            self.factor_w,
            self.factor_k,
            self.bias,
            factor_c_scale=self.factor_c_scale,
            factor_k_scale=self.factor_k_scale,
            **self._options(padding),
        )


class StockInt8CPConv2d(nn.Module):
    """Integers in, four float32 convolutions with a rounding between them, and out as the layer has it."""

    def __init__(self, layer: Int8CPConv2d) -> None:
        super().__init__()
        self.x_dtype, self.relu = layer.x_dtype, layer.relu
        self.x_scale, self.x_zero_point, self.out_scale, self.out_zero_point = layer.numbers()
        self.stages = layer.to_cp().to_stock().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """`x` of x_dtype."""
        inner = self.stages[:3]((x.float() - self.x_zero_point) * self.x_scale)
        y = self.stages[3](inner.round_().clamp_(-127, 127))
        y = y.relu_() if self.relu else y
        return (
            y if self.out_scale is None else quantized(y, self.out_scale, self.out_zero_point, self.x_dtype)
        )


def _inner_scale(scale: Tensor | float, layer: CPConv2d) -> Tensor:
    scale = torch.as_tensor(scale, dtype=torch.float32, device=layer.factor_c.device)
    if scale.shape not in ((), (layer.rank,)):
        raise ValueError(f"inner_scale: expected {layer.rank} elements, one a rank, got {tuple(scale.shape)}")
    if not ((scale > 0) & scale.isfinite()).all():
        raise ValueError("inner_scale: expected positive numbers")
    return scale.expand(layer.rank)
