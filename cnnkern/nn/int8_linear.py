"""A linear layer of 8-bit integers."""

from typing import Any

import torch
from torch import Tensor, nn

from cnnkern.modules import sources_of
from cnnkern.nn.convolution import _Packed, check_count, parameter_like
from cnnkern.nn.int8 import Int8Layer
from cnnkern.nn.stock_int8 import StockInt8Linear
from cnnkern.ops import int8_linear
from cnnkern.ops.dispatch import run_without_gradient
from cnnkern.ops.int8_arguments import check_sum

_int8_gemm_pack = torch.ops.cnnkern.int8_gemm_pack.default
_int8_linear_packed = torch.ops.cnnkern.int8_linear_packed.default


class Int8Linear(Int8Layer):
    """`torch.nn.Linear` with int8 weights of integers, as `Int8Conv2d` is a convolution.

    The arguments and attributes are those of `torch.nn.Linear`, and those of `Int8Conv2d`. All tensors are
    buffers: weight (out_features, in_features) int8, weight_scale and bias (out_features) float32.

    Raises:
        ValueError: a number that cannot be, such as a zero point that x_dtype does not have.
        TypeError: an argument that is no number.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        *,
        x_scale: float,
        x_zero_point: int,
        out_scale: float | None = None,
        out_zero_point: int = 0,
        activation: str | None = None,
        x_dtype: torch.dtype = torch.uint8,
    ) -> None:
        super().__init__()
        self.__dict__["_packed"] = None
        self.in_features = check_count("in_features", in_features)
        self.out_features = check_count("out_features", out_features)
        check_sum("in_features", in_features)
        numbers = x_scale, x_zero_point, out_scale, out_zero_point
        self._add_integers((out_features, in_features), bias, device, numbers, activation, x_dtype)

    def constructor_arguments(self) -> dict[str, Any]:
        """What the constructor takes, the device aside, to make another layer of this structure."""
        shape = {name: getattr(self, name) for name in ("in_features", "out_features")}
        own = {name: getattr(self, name) for name in self.own_arguments}
        return {**shape, "bias": self.bias is not None, **own}

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        x_scale: float,
        x_zero_point: int,
        *,
        out_scale: float | None = None,
        out_zero_point: int = 0,
        activation: str | None = None,
        x_dtype: torch.dtype = torch.uint8,
        weight_scale: Tensor | None = None,
    ) -> "Int8Linear":
        """The layer with the weight of `linear` in integers, as `Int8Conv2d.from_conv` makes them."""
        if not isinstance(linear, nn.Linear) or isinstance(linear, nn.modules.lazy.LazyModuleMixin):
            raise TypeError(f"linear: expected a torch.nn.Linear, got {type(linear).__name__}")
        layer = cls(
            linear.in_features,
            linear.out_features,
            linear.bias is not None,
            linear.weight.device,
            x_scale=x_scale,
            x_zero_point=x_zero_point,
            out_scale=out_scale,
            out_zero_point=out_zero_point,
            activation=activation,
            x_dtype=x_dtype,
        )
        layer._set_weight(linear.weight.detach(), weight_scale, linear.bias)
        return layer.train(linear.training)

    def to_linear(self) -> nn.Linear:
        """The `torch.nn.Linear` with the weight and bias that the integers stand for; no activation."""
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        linear.weight = parameter_like(self.real_weight(), self.weight_scale).requires_grad_()
        if self.bias is not None:
            linear.bias = parameter_like(self.bias, self.bias).requires_grad_()
        return linear.train(self.training)

    def to_stock(self) -> nn.Module:
        """The fastest stock module that computes the same: torch's own quantized linear layer, which rounds
        what it computes in its own way, between a conversion of its input and one of its output."""
        return StockInt8Linear(self)

    def forward(self, x: Tensor) -> Tensor:
        """x Wᵀ + bias of `x` (..., in_features), integers of x_dtype or real numbers: (..., out_features)."""
        x = self.integers(x)
        if self.training or torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return self._compute(x)
        packed = self._packed
        if packed is None or not packed.is_current():
            if any(buffer is not None and buffer.is_inference() for buffer in self._buffers.values()):
                return self._compute(x)  # whose changes cannot be seen
            packed = self.repack()
        try:
            return run_without_gradient(
                _int8_linear_packed, x, packed.weights, self._buffers["bias"], *packed.arguments
            )
        except (RuntimeError, ValueError, TypeError) as refusal:
            error = refusal
        self._compute(x)  # names the argument that is wrong
        raise error

    def repack(self) -> _Packed:
        """Pack the weights now: for writes through `.data`, which leave no trace on the weight. Every other
        change is seen at the next call in eval mode."""
        with torch.no_grad():
            weights = _int8_gemm_pack(self.weight.t())
        arguments = self.weight_scale, *self.numbers(), self.relu
        packed = _Packed(sources_of(self._buffers, self.packed_buffers), None, weights, arguments)
        self.__dict__["_packed"] = packed
        return packed

    def train(self, mode: bool = True) -> "Int8Linear":
        self.__dict__["_packed"] = None
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_packed": None}

    def _compute(self, x: Tensor) -> Tensor:
        x_scale, x_zero_point, out_scale, out_zero_point = self.numbers()
        return int8_linear(
            x,
            self.weight,
            self.bias,
            x_scale=x_scale,
            x_zero_point=x_zero_point,
            weight_scale=self.weight_scale,
            out_scale=out_scale,
            out_zero_point=out_zero_point,
            activation=self.activation,
        )

    def extra_repr(self) -> str:
        text = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{text}, bias={self.bias is not None}{super().extra_repr()}"
