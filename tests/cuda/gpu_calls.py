"""Calls of the operations on a GPU, for the tests that only a GPU can run."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cnnkern import ops
from tests.cuda.cases import with_dtype
from tests.ops.cases import Case
from tests.ops.integers import conv2d_arguments
from tests.ops.masks import mask_of

CASE = Case((2, 16, 9, 12), 24, (3, 3), padding=(1, 1), rank=40)


def on_gpu(tensors: list[Tensor | None], dtype: torch.dtype = torch.bfloat16) -> list[Tensor | None]:
    return [None if t is None else t.cuda() for t in with_dtype(tensors, dtype)]


def int8_on_gpu(case: Case) -> tuple[list[Tensor | None], dict[str, Any]]:
    tensors, options = conv2d_arguments(case, torch.uint8)
    on_device = [None if t is None else t.cuda() for t in tensors]
    return on_device, options | {"weight_scale": options["weight_scale"].cuda()}


def calls(
    case: Case, dtype: torch.dtype = torch.bfloat16, x: Tensor | None = None
) -> list[Callable[[], Tensor]]:
    """A call of each operation, on `x` or on an input of its own."""
    dense, (_, *factors) = on_gpu(case.conv2d_arguments(), dtype), on_gpu(case.cp_arguments(), dtype)
    x = dense[0] if x is None else x
    mask = mask_of(case, "half").cuda()
    masks = mask_of(case, "each image").cuda()
    _, sparse, columns, bias = case.column_sparse_arguments()
    (sparse, bias), columns = on_gpu([sparse, bias], dtype), columns.cuda()
    kernel = {"kernel_size": case.kernel}
    return [
        lambda: ops.conv2d(x, *dense[1:], **case.options),
        lambda: ops.cp_conv2d(x, *factors, **case.options),
        lambda: ops.im2col(x, case.kernel, padding=case.padding),
        lambda: ops.column_sparse_conv2d(x, sparse, columns, bias, **kernel, **case.options),
        lambda: ops.perforated_conv2d(x, dense[1], mask, bias, **case.options),
        lambda: ops.perforated_conv2d(x, dense[1], masks, bias, **case.options, interpolation="none"),
    ]


def int8_calls(case: Case) -> list[Callable[[], Tensor]]:
    (x, weight, bias), options = int8_on_gpu(case)
    images = x, x.contiguous(memory_format=torch.channels_last)
    return [partial(ops.int8_conv2d, image, weight, bias, **options) for image in images]


def sparse_gradients(case: Case, x: Tensor) -> list[Callable[[], tuple[Tensor, ...]]]:
    """Calls of the gradients of the column-sparse and of the perforated convolution."""
    _, sparse, columns, _ = case.column_sparse_arguments()
    _, dense, _ = case.conv2d_arguments()
    sparse, dense, columns = sparse.to(x), dense.to(x), columns.cuda()
    mask = mask_of(case, "each image").cuda()
    grad = torch.randn_like(ops.conv2d(x, dense, **case.options))
    pairs = case.stride, case.padding, case.dilation, case.groups
    every = [True] * 3
    operations = torch.ops.cnnkern
    return [
        lambda: operations.column_sparse_conv2d_backward(
            grad, x, sparse, columns, case.kernel, *pairs, every
        ),
        lambda: operations.perforated_conv2d_backward(grad, x, dense, mask, *pairs, True, every),
    ]


def dense_gradients(case: Case, x: Tensor) -> list[Callable[[], tuple[Tensor, ...]]]:
    """Calls of the gradients of the dense and of the CP convolution."""
    _, weight, _ = on_gpu(case.conv2d_arguments(), x.dtype)
    _, *factors, _ = on_gpu(case.cp_arguments(), x.dtype)
    grad = torch.randn_like(ops.conv2d(x, weight, **case.options))
    rest = case.stride, case.padding, case.dilation, case.groups
    operations = torch.ops.cnnkern
    return [
        lambda: operations.conv2d_backward(grad, x, weight, *rest, [True] * 3),
        lambda: operations.cp_conv2d_backward(grad, x, *factors, *rest, [True] * 6),
    ]
