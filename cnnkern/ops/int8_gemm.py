"""The matrix product of 8-bit integers, exact in int32."""

from typing import Any

import torch
from torch import Tensor

from cnnkern.ops.arguments import check_packed, shape_of, up_to_chunk
from cnnkern.ops.dispatch import register_fake, run
from cnnkern.ops.int8_arguments import check_kinds, check_sum, matrix_size, packed_length

_int8_gemm = torch.ops.cnnkern.int8_gemm.default
_int8_gemm_packed = torch.ops.cnnkern.int8_gemm_packed.default


def int8_gemm(a: Tensor, b: Tensor, *, a_zero_point: int = 0) -> Tensor:
    """The exact matrix product (a − a_zero_point) b of 8-bit integers.

    Args:
        a: (m, k), uint8 or int8.
        b: (k, n), int8, all of −128 to 127; or what `int8_gemm_pack` made of it. k is at most 65,793: a
            longer sum might leave int32.
        a_zero_point: a value of a's type.

    Returns:
        (m, n) int32.

    Raises:
        ValueError: a wrong shape or number.
        TypeError: something that is no tensor, or no int.
        NotImplementedError: a dtype or a device without a kernel.
    """
    if isinstance(b, Tensor) and b.dim() == 1:
        n = _packed_columns(a, b, a_zero_point)
        return run(_int8_gemm_packed, a, b, n, a_zero_point)
    _check_gemm(a, b, a_zero_point)
    return run(_int8_gemm, a, b, a_zero_point)


def int8_gemm_pack(b: Tensor) -> Tensor:
    """`b` (k, n), int8, in the order of the kernels: one row of int8, to be used again in `int8_gemm`."""
    matrix_size("b", b, "(k, n)")
    return torch.ops.cnnkern.int8_gemm_pack.default(b)


def _check_gemm(a: Any, b: Any, a_zero_point: Any) -> tuple[int, int]:
    m, k = shape_of("a", a, "(m, k)", 2)
    rows, n = matrix_size("b", b, "(k, n)")
    if rows != k:
        raise ValueError(f"b: expected {k} rows like a's columns, got {rows}")
    check_sum("k", k)
    check_kinds("a", a, a_zero_point, b=b)
    return m, n


def _packed_columns(a: Any, packed: Tensor, a_zero_point: Any) -> int:
    """n of a packed (k, n): see `packed_length`."""
    _, k = shape_of("a", a, "(m, k)", 2)
    check_sum("k", k)
    check_kinds("a", a, a_zero_point, b=packed)
    if packed.is_cuda:
        n = len(packed) // (up_to_chunk(k, packed) + 4)
    else:
        panel = (k + 3) // 4 * 64 + 1
        n = (len(packed) + panel * (-len(packed) // (panel + 64))) // 4
    if min(k, n) < 1 or packed_length((n, k, 1, 1), 1, packed) != len(packed):
        raise ValueError(f"b: expected the packed form of {k} rows, got {len(packed)} elements")
    return n


@register_fake("int8_gemm")
def _gemm_fake(a: Tensor, b: Tensor, a_zero_point: int) -> Tensor:
    return a.new_empty(_check_gemm(a, b, a_zero_point), dtype=torch.int32)


@register_fake("int8_gemm_pack")
def _gemm_pack_fake(b: Tensor) -> Tensor:
    k, n = matrix_size("b", b, "(k, n)")
    check_sum("b", k)
    return b.new_empty(packed_length((n, k, 1, 1), 1, b))


@register_fake("int8_gemm_packed")
def _gemm_packed_fake(a: Tensor, packed: Tensor, n: int, a_zero_point: int) -> Tensor:
    m, k = shape_of("a", a, "(m, k)", 2)
    check_kinds("a", a, a_zero_point, packed=packed)
    check_packed(packed, packed_length((n, k, 1, 1), 1, packed))
    return a.new_empty((m, n), dtype=torch.int32)
