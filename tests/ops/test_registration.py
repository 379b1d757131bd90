"""Every registered operation is one that the rest of PyTorch can work with."""

from typing import Any

import pytest
import torch

from cnnkern import reference
from tests.ops.cases import Case
from tests.ops.masks import mask_of

CASES = [
    Case((2, 3, 5, 7), 17, (3, 2), padding=(1, 0)),
    Case((1, 6, 5, 7), 4, (3, 3), stride=(2, 1), dilation=(1, 2), groups=2, rank=18, bias=False),
    Case((2, 5, 7, 4), 10, (3, 3), padding=(1, 1), groups=5),
    Case((0, 3, 5, 7), 4, (1, 1)),
]


def arguments(name: str, case: Case, memory_format: torch.memory_format) -> tuple[Any, ...]:
    """Arguments of the operation `name` for a case."""
    x, weight, bias = case.conv2d_arguments()
    x = x.contiguous(memory_format=memory_format)
    _, *factors, _ = case.cp_arguments()
    pairs = [list(case.stride), list(case.padding), list(case.dilation)]
    steps = [*case.stride, *case.padding, *case.dilation, case.groups]
    grad = torch.randn_like(reference.conv2d(x, weight, **case.options))
    packed = torch.ops.cnnkern.conv2d_pack(weight, case.groups)
    mask = mask_of(case, "half")
    arranged = torch.ops.cnnkern.perforated_conv2d_arrange(mask, True)
    _, sparse, columns, _ = case.column_sparse_arguments()
    kernel = list(case.kernel)
    packed_sparse = torch.ops.cnnkern.column_sparse_conv2d_pack(sparse, columns, kernel, case.groups)
    packed_factors = torch.ops.cnnkern.cp_conv2d_pack(*factors, case.groups)
    if name.startswith("int8"):
        return int8_arguments(name, case, memory_format)
    return {
        "im2col": (x, list(case.kernel), *pairs),
        "column_sparse_conv2d": (x, sparse, columns, bias, kernel, *pairs, case.groups),
        "column_sparse_conv2d_backward": (
            *(grad, x, sparse, columns, kernel, *pairs, case.groups, [True, False, True]),
        ),
        "column_sparse_conv2d_pack": (sparse, columns, kernel, case.groups),
        "column_sparse_conv2d_packed": (x, packed_sparse, bias, [*case.weight_size, *steps], columns),
        "conv2d": (x, weight, bias, *pairs, case.groups, True),
        "conv2d_backward": (grad, x, weight, *pairs, case.groups, [True, False, True]),
        "conv2d_pack": (weight, case.groups),
        "conv2d_packed": (x, packed, bias, [*case.weight_size, *steps], False),
        "perforated_conv2d": (x, weight, mask, bias, *pairs, case.groups, True),
        "perforated_conv2d_backward": (
            grad,
            x,
            weight,
            mask,
            *pairs,
            case.groups,
            True,
            [True, False, True],
        ),
        "perforated_conv2d_packed": (x, packed, bias, [*case.weight_size, *steps], arranged),
        "perforated_conv2d_arrange": (mask_of(case, "each image"), True),
        "perforated_conv2d_sources": (mask_of(case, "each image"), False),
        "cp_conv2d": (x, *factors, bias, *pairs, case.groups),
        "cp_conv2d_backward": (grad, x, *factors, *pairs, case.groups, [True, True, False, True, True, True]),
        "cp_conv2d_pack": (*factors, case.groups),
        "cp_conv2d_packed": (x, packed_factors, bias, [*case.factor_size, *steps]),
    }[name]


def int8_arguments(name: str, case: Case, memory_format: torch.memory_format) -> tuple[Any, ...]:
    """Those of the int8 operations; of the matrices, a is x as rows of pixels."""
    x = torch.randint(256, case.x, dtype=torch.uint8).contiguous(memory_format=memory_format)
    weight = torch.randint(-128, 128, case.weight_size, dtype=torch.int8)
    bias = torch.randn(case.channels) if case.bias else None
    rows = torch.randint(-128, 128, (case.x[0], 13), dtype=torch.int8)
    matrix = torch.randint(-128, 128, (case.channels, 13), dtype=torch.int8)
    pairs = [list(case.stride), list(case.padding), list(case.dilation)]
    pooling = [*case.kernel, *case.stride, *(size // 2 for size in case.kernel), *case.dilation]
    geometry = [*case.weight_size, *case.stride, *case.padding, *case.dilation, case.groups]
    scales = torch.rand(case.channels) + 0.1, 0.5, 7, 100.0 if case.bias else None, 3
    packed = torch.ops.cnnkern.int8_conv2d_pack(weight, case.groups)
    packed_matrix = torch.ops.cnnkern.int8_gemm_pack(matrix.t())
    _, real_sparse, columns, _ = case.column_sparse_arguments()
    sparse = real_sparse.mul(40).clamp(-127, 127).to(torch.int8)
    packed_sparse = torch.ops.cnnkern.int8_column_sparse_conv2d_pack(sparse, case.groups)
    _, real_c, factor_h, factor_w, real_k, _ = case.cp_arguments()
    factor_c, factor_k = (factor.mul(40).clamp(-127, 127).to(torch.int8) for factor in (real_c, real_k))
    factors = factor_c, factor_h, factor_w, factor_k
    packed_factors = torch.ops.cnnkern.int8_cp_conv2d_pack(*factors, case.groups)
    cp_geometry = [*case.factor_size, *geometry[4:]]
    cp_scales = torch.rand(case.rank) + 0.1, *scales
    return {
        "int8_column_sparse_conv2d": (
            *(x, sparse, columns, bias, *scales, list(case.kernel), *pairs, case.groups, True),
        ),
        "int8_column_sparse_conv2d_pack": (sparse, case.groups),
        "int8_column_sparse_conv2d_packed": (x, packed_sparse, bias, geometry, columns, *scales, False),
        "int8_cp_conv2d": (x, *factors, bias, *cp_scales, *pairs, case.groups, True),
        "int8_cp_conv2d_pack": (*factors, case.groups),
        "int8_cp_conv2d_packed": (x, packed_factors, bias, cp_geometry, *cp_scales, False),
        "int8_conv2d": (x, weight, bias, *scales, *pairs, case.groups, True),
        "int8_conv2d_pack": (weight, case.groups),
        "int8_conv2d_packed": (x, packed, bias, geometry, *scales, False),
        "int8_quantize": (x.float(), 0.5, 7, torch.uint8),
        "int8_add": (x, x.flip(1), 0.5, 7, 0.25, 3, 1.0, 9, True),
        "int8_max_pool2d": (x, pooling, True),
        "int8_gemm": (rows, matrix.t(), -3),
        "int8_gemm_pack": (matrix.t(),),
        "int8_gemm_packed": (rows, packed_matrix, case.channels, -3),
        "int8_linear": (rows, matrix, bias, *scales, True),
        "int8_linear_packed": (rows, packed_matrix, bias, *scales, False),
    }[name]


DIFFERENTIABLE = ("column_sparse_conv2d", "conv2d", "cp_conv2d", "im2col", "perforated_conv2d")
REGISTERED = sorted(
    schema.name.removeprefix("cnnkern::")
    for schema in torch._C._jit_get_all_schemas()
    if schema.name.startswith("cnnkern::")
)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", REGISTERED)
def test_opcheck(name: str, case: Case, memory_format: torch.memory_format) -> None:
    """Schema, fake kernel, autograd and tracing agree; fails for an operation that has no arguments above."""
    operation = getattr(torch.ops.cnnkern, name).default
    given = arguments(name, case, memory_format)
    torch.library.opcheck(operation, given)
    if name in DIFFERENTIABLE:
        torch.library.opcheck(operation, [require_gradient(argument) for argument in given])


def require_gradient(argument: Any) -> Any:
    real = isinstance(argument, torch.Tensor) and argument.is_floating_point()
    return argument.clone().requires_grad_() if real else argument


@pytest.mark.parametrize("name", REGISTERED)
def test_tensors_on_several_devices_are_refused(name: str) -> None:
    given = arguments(name, CASES[0], torch.contiguous_format)
    tensors = [i for i, argument in enumerate(given) if isinstance(argument, torch.Tensor)]
    for i in tensors if len(tensors) > 1 else ():
        mixed = [argument.to("meta") if i == j else argument for j, argument in enumerate(given)]
        with pytest.raises((ValueError, RuntimeError), match=r"device|expected a tensor on"):
            getattr(torch.ops.cnnkern, name)(*mixed)


COMPUTING = [f"{name}{form}" for name in DIFFERENTIABLE if name != "im2col" for form in ("", "_packed")]


@pytest.mark.parametrize("name", [*COMPUTING, "im2col"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_autocast_computes_in_float32(name: str, dtype: torch.dtype) -> None:
    x, *rest = arguments(name, CASES[0], torch.contiguous_format)
    operation = getattr(torch.ops.cnnkern, name).default
    x = x.to(dtype)
    expected = operation(x.float(), *rest)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = operation(x, *rest)
    assert y.dtype == torch.float32
    assert torch.equal(y, expected)
