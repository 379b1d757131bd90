"""The maxima of quantized numbers."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cnnkern.ops.arguments import IntPair, check_device, pair, shape_of
from cnnkern.ops.dispatch import register_fake, run_checked
from cnnkern.ops.fakes import empty_output
from cnnkern.ops.int8_arguments import ACTIVATION_DTYPES, register_integers

_int8_max_pool2d = torch.ops.cnnkern.int8_max_pool2d.default


def int8_max_pool2d(
    x: Tensor,
    kernel_size: IntPair,
    *,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """The greatest number of each window, as `torch.nn.functional.max_pool2d` gives it of real numbers.

    Args:
        x: (N, C, H, W), in any memory format; uint8 or int8.
        kernel_size, stride, padding, dilation: int or pair (vertical, horizontal), in pixels; stride is
            kernel_size unless given, and padding at most half of kernel_size.
        ceil_mode: whether the size of the output is rounded up, for windows that leave the padded image but
            begin inside of the image or before it.

    Returns:
        (N, C, oH, oW) of x's dtype, in its memory format. Padding never is the greatest: a window with
        nothing else in it gives the least value of the type.

    Raises:
        ValueError: a wrong shape or number.
        TypeError: something that is no tensor, or no int.
        NotImplementedError: a dtype or a device without a kernel.
    """
    kernel = pair("kernel_size", kernel_size, 1)
    stride = kernel if stride is None else pair("stride", stride, 1)
    padding, dilation = pair("padding", padding, 0), pair("dilation", dilation, 1)
    if type(ceil_mode) is not bool:
        raise TypeError(f"ceil_mode: expected a bool, got {ceil_mode!r}")
    # one list, since each costs a call a microsecond
    geometry = (*kernel, *stride, *padding, *dilation)
    return run_checked(_int8_max_pool2d, _check, (x, geometry, ceil_mode))


def _check(x: Any, geometry: Sequence[int], ceil_mode: bool) -> tuple[int, int, int, int]:
    """The shape of the output, or an error that says what is wrong with the arguments."""
    if len(geometry) != 8:
        raise ValueError(f"geometry: expected 8 numbers, got {len(geometry)}")
    names = ("kernel_size", 1), ("stride", 1), ("padding", 0), ("dilation", 1)
    kernel, stride, padding, dilation = (
        pair(name, geometry[2 * i : 2 * i + 2], least) for i, (name, least) in enumerate(names)
    )
    n, c, *image = shape_of("x", x, "(N, C, H, W)", 4)
    check_device("x", x)
    if x.dtype not in ACTIVATION_DTYPES:
        raise NotImplementedError(f"x: expected uint8 or int8, got {x.dtype}: no kernel for it")
    if c < 1:
        raise ValueError("x: expected at least 1 channel, got 0")
    if min(image) < 1:
        raise ValueError(f"x: expected an image of at least 1 x 1, got {image[0]} x {image[1]}")
    if padding[0] > kernel[0] // 2 or padding[1] > kernel[1] // 2:
        raise ValueError(
            f"padding: expected at most half of the kernel_size {tuple(kernel)}, got {tuple(padding)}"
        )
    axes = zip(image, kernel, stride, padding, dilation, strict=True)
    h, w = (_windows(*axis, ceil_mode) for axis in axes)
    return n, c, h, w


def _windows(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """How many there are along an axis."""
    extent = dilation * (kernel - 1) + 1
    room = size + 2 * padding - extent + (stride - 1 if ceil_mode else 0)
    if room < 0:
        raise ValueError(
            f"x: expected an image that the kernel fits into, got {size + 2 * padding} with its padding for "
            f"a kernel of {extent} with its dilation"
        )
    count = room // stride + 1
    # none begins in the padding behind the image
    return count - 1 if ceil_mode and (count - 1) * stride >= size + padding else count


@register_fake("int8_max_pool2d")
def _fake(x: Tensor, geometry: Sequence[int], ceil_mode: bool) -> Tensor:
    return empty_output(x, _check(x, geometry, ceil_mode))


register_integers("int8_max_pool2d")
