"""Calls of the operations on a GPU, for the tests that only a GPU can run."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cnnkern import ops
from tests.cuda.cases import with_dtype
from tests.ops.cases import Case
from tests.ops.integers import conv2d_arguments, integers, out_scale_of
from tests.ops.masks import mask_of, output_size
from tests.ops.test_int8_add import GRIDS
from tests.ops.test_registration import REGISTERED, arguments

CASE = Case((2, 16, 9, 12), 24, (3, 3), padding=(1, 1), rank=40)
ON_CPU_ALONE = ("int8_column_sparse_conv2d", "int8_cp_conv2d")
OPERATIONS = [name for name in REGISTERED if not name.startswith(ON_CPU_ALONE)]
WAIT = 10_000_000  # cycles, some milliseconds: longer than it takes to queue a call
# what packs the weight of an operation that has no packing of its own
PACKED_BY = {"int8_linear_packed": "int8_gemm_pack", "perforated_conv2d_packed": "conv2d_pack"}


def operation_on_gpu(name: str) -> tuple[torch._ops.OpOverload, list[Any]]:
    """One of OPERATIONS and arguments for it, its weight packed on the GPU, in the order of kernels there."""
    given = [a.cuda() if isinstance(a, Tensor) else a for a in arguments(name, CASE, torch.channels_last)]
    if name.endswith("_packed"):
        pack, weights = operation_on_gpu(PACKED_BY.get(name, name.removesuffix("ed")))
        given[1] = pack(*weights)
    return getattr(torch.ops.cnnkern, name).default, given


def tensors_of(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)


def same(result: Tensor | tuple[Tensor, ...], expected: Tensor | tuple[Tensor, ...]) -> bool:
    """Whether one tensor, or each of several, has the bits of the other. What is packed may hold numbers that
    are no floats."""
    same_size = {1: torch.uint8, 2: torch.int16, 4: torch.int32}
    pairs = zip(tensors_of(result), tensors_of(expected), strict=True)
    return all(torch.equal(*(t.view(same_size[t.element_size()]) for t in pair)) for pair in pairs)


def on_gpu(tensors: list[Tensor | None], dtype: torch.dtype = torch.bfloat16) -> list[Tensor | None]:
    return [None if t is None else t.cuda() for t in with_dtype(tensors, dtype)]


def input_and_gradient(case: Case, dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    """x, and the gradient of an output, with random values."""
    return on_gpu([torch.randn(case.x), torch.randn(case.x[0], case.channels, *output_size(case))], dtype)


def calls(case: Case, dtype: torch.dtype = torch.bfloat16) -> dict[str, Callable[[Tensor], Tensor]]:
    """The operations on real numbers, as functions of x."""
    dense, factors = (on_gpu(a[1:], dtype) for a in (case.conv2d_arguments(), case.cp_arguments()))
    mask, masks = (mask_of(case, kind).cuda() for kind in ("half", "each image"))
    _, sparse, columns, bias = case.column_sparse_arguments()
    (sparse, bias), columns = on_gpu([sparse, bias], dtype), columns.cuda()
    options, sparse_options = case.options, {"kernel_size": case.kernel, **case.options}
    return {
        "conv2d": lambda x: ops.conv2d(x, *dense, **options),
        "cp_conv2d": lambda x: ops.cp_conv2d(x, *factors, **options),
        "im2col": lambda x: ops.im2col(x, case.kernel, padding=case.padding),
        "column_sparse_conv2d": lambda x: ops.column_sparse_conv2d(
            x, sparse, columns, bias, **sparse_options
        ),
        "perforated_conv2d": lambda x: ops.perforated_conv2d(x, dense[0], mask, bias, **options),
        "perforated_conv2d with a mask for each image": lambda x: ops.perforated_conv2d(
            x, dense[0], masks, bias, **options, interpolation="none"
        ),
    }


def int8_calls(case: Case) -> dict[str, Callable[[Tensor], Tensor]]:
    """The operations on integers, as functions of an image of uint8."""
    (_, weight, bias), options = conv2d_arguments(case, torch.uint8)
    weight, bias = weight.cuda(), None if bias is None else bias.cuda()
    options["weight_scale"] = options["weight_scale"].cuda()
    scales = {name: options[name] for name in ("x_scale", "x_zero_point", "weight_scale")}
    scales["out_scale"] = out_scale_of(case)
    matrix = integers((case.channels, case.x[3]), torch.int8).cuda()
    return {
        "int8_conv2d": lambda x: ops.int8_conv2d(x, weight, bias, **options),
        "int8_linear": lambda x: ops.int8_linear(x, matrix, bias, **scales),
        "int8_gemm": lambda x: ops.int8_gemm(x.flatten(0, 2), matrix.t(), a_zero_point=3),
        "int8_quantize": lambda x: ops.int8_quantize(x.float(), 2.0, 7),
        "int8_add": lambda x: ops.int8_add(x, x.flip(1), **GRIDS),
        "int8_max_pool2d": lambda x: ops.int8_max_pool2d(x, 3, stride=1, padding=1),
    }


def gradients(
    case: Case, dtype: torch.dtype = torch.bfloat16, whole: bool = False
) -> dict[str, Callable[[Tensor, Tensor], tuple[Tensor, ...]]]:
    """The gradients of each convolution, as functions of x and of the output's gradient. `whole`: weights are
    whole numbers."""
    _, sparse, columns, _ = case.column_sparse_arguments()
    real = [case.conv2d_arguments()[1], sparse, *case.cp_arguments()[1:5]]
    weight, sparse, *factors = on_gpu([t.round() if whole else t for t in real], dtype)
    mask, masks = (mask_of(case, kind).cuda() for kind in ("half", "each image"))
    columns, steps = columns.cuda(), (case.stride, case.padding, case.dilation, case.groups)
    o, three = torch.ops.cnnkern, [True] * 3
    return {
        "conv2d": lambda x, grad: o.conv2d_backward(grad, x, weight, *steps, three),
        "cp_conv2d": lambda x, grad: o.cp_conv2d_backward(grad, x, *factors, *steps, [True] * 6),
        "column_sparse_conv2d": lambda x, grad: o.column_sparse_conv2d_backward(
            grad, x, sparse, columns, case.kernel, *steps, three
        ),
        "perforated_conv2d": lambda x, grad: o.perforated_conv2d_backward(
            grad, x, weight, mask, *steps, True, three
        ),
        "perforated_conv2d with a mask for each image": lambda x, grad: o.perforated_conv2d_backward(
            grad, x, weight, masks, *steps, False, three
        ),
    }
