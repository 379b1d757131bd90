"""The sum of quantized numbers, on a third grid."""

from typing import Any

import torch
from torch import Tensor

from cnnkern.ops.arguments import check_device
from cnnkern.ops.dispatch import register_fake, run_checked
from cnnkern.ops.int8_arguments import (
    ACTIVATION_DTYPES,
    check_activation,
    check_like,
    check_scale,
    check_zero_point,
    register_integers,
)

_int8_add = torch.ops.cnnkern.int8_add.default


def int8_add(
    a: Tensor,
    b: Tensor,
    *,
    a_scale: float,
    a_zero_point: int,
    b_scale: float,
    b_zero_point: int,
    out_scale: float,
    out_zero_point: int = 0,
    activation: str | None = None,
) -> Tensor:
    """The sum of two tensors of quantized numbers; each of the three has a scale and a zero point of its own.

    Args:
        a: uint8 or int8 of any shape, its axes in any order in memory; a copy is made of one with gaps.
        b: the same dtype and shape; a copy is made of one that lies in memory otherwise than a.
        a_scale, b_scale, out_scale: positive.
        a_zero_point, b_zero_point, out_zero_point: values of a's type.
        activation: None, or "relu".

    Returns:
        Integers of a's type, in its memory format: `cnnkern.reference.int8_add` is the formula, to the last
        bit. Rounded to nearest with ties to even, and clamped.

    Raises:
        ValueError: a wrong shape or number.
        TypeError: something that is no tensor, or no number.
        NotImplementedError: a dtype or a device without a kernel.
    """
    check_activation(activation)
    numbers = a_scale, a_zero_point, b_scale, b_zero_point, out_scale, out_zero_point
    return run_checked(_int8_add, _check, (a, b, *numbers), activation is not None)


def _check(
    a: Any,
    b: Any,
    a_scale: Any,
    a_zero_point: Any,
    b_scale: Any,
    b_zero_point: Any,
    out_scale: Any,
    out_zero_point: Any,
) -> None:
    for name, tensor in (("a", a), ("b", b)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
    check_device("a", a)
    if a.dtype not in ACTIVATION_DTYPES:
        raise NotImplementedError(f"a: expected uint8 or int8, got {a.dtype}: no kernel for it")
    check_like("a", a, "b", b, a.dtype)
    if a.shape != b.shape:
        raise ValueError(f"b: expected the shape of a, {tuple(a.shape)}, got {tuple(b.shape)}")
    for name, scale, zero_point in (
        ("a", a_scale, a_zero_point),
        ("b", b_scale, b_zero_point),
        ("out", out_scale, out_zero_point),
    ):
        check_scale(f"{name}_scale", scale)
        check_zero_point(f"{name}_zero_point", zero_point, a.dtype)


@register_fake("int8_add")
def _fake(
    a: Tensor,
    b: Tensor,
    a_scale: float,
    a_zero_point: int,
    b_scale: float,
    b_zero_point: int,
    out_scale: float,
    out_zero_point: int,
    relu: bool,
) -> Tensor:
    _check(a, b, a_scale, a_zero_point, b_scale, b_zero_point, out_scale, out_zero_point)
    return torch.empty_like(a)


register_integers("int8_add")
