"""The patch matrix of a convolution, written out."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnkern.ops.arguments import IntPair, Pair, check_kind, geometry, output_size, pair, shape_of
from cnnkern.ops.dispatch import register_autocast, register_fake, run

_im2col = torch.ops.cnnkern.im2col.default


def im2col(
    x: Tensor, kernel_size: IntPair, *, stride: IntPair = 1, padding: IntPair = 0, dilation: IntPair = 1
) -> Tensor:
    """Patches of `x` as the columns of a matrix, exactly as `torch.nn.functional.unfold` gives them.

    Args:
        x: (N, C, H, W), in any memory format; float32 or float64 on the CPU, float32, float16 or bfloat16 on
            CUDA.
        kernel_size, stride, padding, dilation: int or pair (vertical, horizontal), in pixels.

    Returns:
        (N, C·kH·kW, oH·oW) of x's dtype: row (c·kH + i)·kW + j, column y·oW + x; zero where a patch leaves
        the image. `conv2d` never writes this matrix out: this function is for those who want to look at it.

    Raises:
        ValueError: a wrong shape or number.
        TypeError: something that is no tensor, or no int.
        NotImplementedError: a dtype or a device without a kernel.

    The gradient is the adjoint, `torch.nn.functional.fold`.
    """
    kernel_size = pair("kernel_size", kernel_size, 1)
    stride, padding, dilation = geometry(stride, padding, dilation)
    _check(x, kernel_size, stride, padding, dilation)
    return run(_im2col, x, kernel_size, stride, padding, dilation)


def _check(x: Tensor, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair) -> tuple[int, int, int]:
    """The shape of the patch matrix, or an error that says what is wrong with the arguments."""
    n, c, *image = shape_of("x", x, "(N, C, H, W)", 4)
    check_kind(x=x)
    if c < 1:
        raise ValueError("x: expected at least 1 channel, got 0")
    h, w = output_size(image, kernel_size, stride, padding, dilation)
    return n, c * kernel_size[0] * kernel_size[1], h * w


@register_fake("im2col")
def _fake(x: Tensor, kernel_size: Any, stride: Any, padding: Any, dilation: Any) -> Tensor:
    return x.new_empty(_check(x, pair("kernel_size", kernel_size, 1), *geometry(stride, padding, dilation)))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, *ctx.geometry = inputs
    ctx.image = x.shape[2:]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    kernel_size, stride, padding, dilation = ctx.geometry
    return F.fold(grad, ctx.image, kernel_size, dilation, padding, stride), None, None, None, None


torch.library.register_autograd("cnnkern::im2col", _backward, setup_context=_setup_context)
register_autocast("im2col")
