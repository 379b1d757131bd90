"""What the int8 layers share: the integers, the numbers that say what they mean, and how both are kept.

Everything is a buffer: weight (int8) and weight_scale (K, float32) or the factors that a layer has instead,
bias (K, float32), x_scale, x_zero_point, out_scale, out_zero_point. `.to(dtype)`, `.half()` and their like
leave all of them as they are.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cnnkern.modules import Sources, are_current, sources_of
from cnnkern.ops import int8_quantize
from cnnkern.ops.int8_arguments import (
    ACTIVATION_DTYPES,
    check_activation,
    check_scale,
    check_zero_point,
)

Numbers = tuple[float, int, float | None, int]  # x_scale, x_zero_point, out_scale, out_zero_point
NUMBERS = ("x_scale", "x_zero_point", "out_scale", "out_zero_point")


class Int8Layer(nn.Module):
    """Base of the int8 layers, besides what else they are."""

    # see Convolution2d
    own_arguments = (*NUMBERS, "activation", "x_dtype")
    # buffers that, when they change, change the packed form
    packed_buffers = ("weight", "weight_scale", *NUMBERS)

    def _add_integers(
        self,
        weight_size: tuple[int, ...],
        bias: bool,
        device: torch.device | str | None,
        numbers: Numbers,
        activation: str | None,
        x_dtype: torch.dtype,
    ) -> None:
        """The buffers: a zero weight of scale 1, a zero bias, and the numbers."""
        with torch.inference_mode(False):  # else nobody could see them change
            self.register_buffer("weight", torch.zeros(weight_size, dtype=torch.int8, device=device))
            self.register_buffer("weight_scale", torch.ones(weight_size[0], device=device))
        self._add_numbers(weight_size[0], bias, device, numbers, activation, x_dtype)

    def _add_numbers(
        self,
        out_channels: int,
        bias: bool,
        device: torch.device | str | None,
        numbers: Numbers,
        activation: str | None,
        x_dtype: torch.dtype,
    ) -> None:
        """Those of the buffers that every layer has."""
        numbers = checked_numbers(numbers, x_dtype)
        check_activation(activation)
        self.activation, self.x_dtype = activation, x_dtype
        with torch.inference_mode(False):
            self.register_buffer("bias", torch.zeros(out_channels, device=device) if bias else None)
            for name, value in zip(NUMBERS, numbers, strict=True):
                dtype = torch.int64 if isinstance(value, int) else torch.float64
                kept = None if value is None else torch.tensor(value, dtype=dtype, device=device)
                self.register_buffer(name, kept)
        self._numbers = numbers
        self._read: Sources = ()

    def _set_weight(self, weight: Tensor, scale: Tensor | None, bias: Tensor | None) -> None:
        """`weight` (K, ...), real numbers, as integers with the given scale or their own; and a bias."""
        with torch.inference_mode(False), torch.no_grad():
            self.weight, self.weight_scale = quantized_weight(weight.float(), scale)
            self._set_bias(bias)

    def _set_bias(self, bias: Tensor | None) -> None:
        """A copy of `bias`."""
        if bias is not None:
            check_finite("bias", bias)
            bias = bias.detach().to(torch.float32, copy=True)
        self.bias = bias

    def real_weight(self) -> Tensor:
        """What the integers of the weight stand for, float32."""
        return self.weight * self.weight_scale.view(-1, *[1] * (self.weight.dim() - 1))

    @property
    def relu(self) -> bool:
        return self.activation == "relu"

    def numbers(self) -> Numbers:
        """x_scale, x_zero_point, out_scale and out_zero_point as Python has them. They are read again only
        where a buffer has changed, since a GPU has to be waited for."""
        if torch.compiler.is_compiling() or (self._read and are_current(self._read)):
            return self._numbers
        kept = [self._buffers[name] for name in NUMBERS]
        there = [number for number in kept if number is not None]
        # while a state is loaded into a layer on the meta device, some of them are there still
        if not any(number.is_meta for number in there):
            self.__dict__["_numbers"] = tuple(None if number is None else number.item() for number in kept)
            unseen = any(number.is_inference() for number in there)  # what is written to these
            self.__dict__["_read"] = () if unseen else sources_of(self._buffers, NUMBERS)
        return self._numbers

    def integers(self, x: Tensor) -> Tensor:
        """`x` itself where it is of the layer's type; real numbers are quantized with the layer's scale."""
        if not isinstance(x, Tensor) or x.dtype is self.x_dtype:
            return x
        if not x.is_floating_point():
            raise ValueError(f"x: expected {self.x_dtype} or real numbers, got {x.dtype}")
        if torch.is_grad_enabled() and x.requires_grad:
            raise NotImplementedError(
                "x: expected a tensor that asks for no gradient: integers have none; "
                "see cnnkern.quantization for training"
            )
        x_scale, x_zero_point, *_ = self.numbers()
        return int8_quantize(x.float(), x_scale, x_zero_point, self.x_dtype)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.numbers()

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in NUMBERS:
            self.numbers()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_read": ()}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Int8Layer":
        return super()._apply(_without_change_of_type(fn), recurse)

    def extra_repr(self) -> str:
        x_scale, x_zero_point, out_scale, out_zero_point = self._numbers
        text = f"{super().extra_repr()}, x_scale={x_scale:.4g}, x_zero_point={x_zero_point}"
        if self.x_dtype is not torch.uint8:
            text += f", x_dtype={self.x_dtype}"
        if out_scale is not None:
            text += f", out_scale={out_scale:.4g}, out_zero_point={out_zero_point}"
        return text if self.activation is None else f"{text}, activation={self.activation!r}"


def checked_numbers(numbers: tuple[Any, ...], x_dtype: Any) -> Numbers:
    """The numbers, of which any may be a tensor of one element, if all of them can be."""
    if x_dtype not in ACTIVATION_DTYPES:
        raise ValueError(f"x_dtype: expected torch.uint8 or torch.int8, got {x_dtype!r}")
    x_scale, x_zero_point, out_scale, out_zero_point = (
        number.item() if isinstance(number, Tensor) and number.numel() == 1 else number for number in numbers
    )
    check_scale("x_scale", x_scale)
    check_zero_point("x_zero_point", x_zero_point, x_dtype)
    if out_scale is not None:
        check_scale("out_scale", out_scale)
        out_scale = float(out_scale)
    check_zero_point("out_zero_point", out_zero_point, x_dtype)
    return float(x_scale), x_zero_point, out_scale, out_zero_point


# The two formulas below are those of int8_quantize and int8_quantize_weight in cnnkern.reference.


def quantized(x: Tensor, scale: float, zero_point: int, dtype: torch.dtype) -> Tensor:
    """Real numbers as integers of `dtype`, rounded to nearest, ties to even, in stock torch."""
    limits = torch.iinfo(dtype)
    steps = torch.div(x, scale).round_().add_(zero_point)  # in place: each pass over memory costs as much
    return steps.clamp_(limits.min, limits.max).to(dtype)


def quantized_weight(
    weight: Tensor, scale: Tensor | None = None, name: str = "weight"
) -> tuple[Tensor, Tensor]:
    """A weight (K, ...) as int8 in [−127, 127], and its scale (K)."""
    check_finite(name, weight)
    if scale is None:
        greatest = weight.flatten(1).abs().amax(1)
        least = torch.finfo(torch.float32).tiny
        scale = torch.where(greatest > 0, (greatest / 127).clamp(min=least), 1.0)
    else:
        if scale.shape != weight.shape[:1]:
            raise ValueError(
                f"weight_scale: expected {len(weight)} elements, one an output channel, got "
                f"{tuple(scale.shape)}"
            )
        if not ((scale > 0) & scale.isfinite()).all():
            raise ValueError("weight_scale: expected positive numbers")
        scale = scale.detach().to(weight.device, torch.float32, copy=True)
    rounded = torch.round(weight / scale.view(-1, *[1] * (weight.dim() - 1)))
    return rounded.clamp(-127, 127).to(torch.int8), scale


def check_finite(name: str, values: Tensor) -> None:
    """Integers have no infinities, and nothing that is no number."""
    if not (values.is_meta or values.isfinite().all()):
        raise ValueError(f"{name}: expected finite values, got some that are not")


def _without_change_of_type(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """`fn`, without what it does to the type of a tensor."""

    def apply(tensor: Tensor) -> Tensor:
        moved = fn(tensor)
        return moved if moved.dtype is tensor.dtype else tensor.to(moved.device)

    return apply
