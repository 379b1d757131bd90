"""Wrong arguments of the int8 operations are refused in words that name the argument and what came."""

from typing import Any

import pytest
import torch

from cnnkern import ops
from cnnkern.ops.int8_arguments import LONGEST_SUM

X = torch.zeros(2, 6, 5, 7, dtype=torch.uint8)
WEIGHT = torch.zeros(4, 3, 3, 2, dtype=torch.int8)
SCALES = {"x_scale": 0.1, "x_zero_point": 3, "weight_scale": torch.ones(4), "out_scale": 0.1}
CONV2D = {"x": X, "weight": WEIGHT, "bias": torch.zeros(4), "groups": 2, **SCALES}
LINEAR = {"x": X[0, 0], "weight": torch.zeros(4, 7, dtype=torch.int8), "bias": torch.zeros(4), **SCALES}
GEMM = {"a": X[0, 0], "b": torch.zeros(7, 4, dtype=torch.int8)}
LONG = torch.zeros(1, LONGEST_SUM + 1, dtype=torch.int8)

SCALING = [
    ({"x_zero_point": 256}, ValueError, r"x_zero_point: expected 0 to 255 for torch.uint8, got 256"),
    ({"x_zero_point": 1.0}, TypeError, r"x_zero_point: expected an int, got 1.0"),
    ({"x_scale": 0.0}, ValueError, r"x_scale: expected a positive number, got 0.0"),
    ({"x_scale": float("nan")}, ValueError, r"x_scale: expected a positive number, got nan"),
    ({"x_scale": float("inf")}, ValueError, r"x_scale: expected a positive number, got inf"),
    ({"x_scale": "1"}, TypeError, r"x_scale: expected a float, got '1'"),
    ({"out_scale": -0.1}, ValueError, r"out_scale: expected a positive number, got -0.1"),
    ({"out_zero_point": -1}, ValueError, r"out_zero_point: expected 0 to 255 for torch.uint8, got -1"),
    ({"weight_scale": torch.ones(3)}, ValueError, r"weight_scale: expected 4 elements, .* got 3"),
    ({"weight_scale": torch.ones(4).double()}, NotImplementedError, r"weight_scale: expected torch.float32"),
    ({"weight_scale": torch.tensor([1.0, 0, 1, 1])}, ValueError, r"weight_scale: .* positive .* got 0"),
    ({"bias": torch.zeros(5)}, ValueError, r"bias: expected 4 elements, one an output channel, got 5"),
    (
        {"bias": torch.zeros(4).half()},
        NotImplementedError,
        r"bias: expected torch.float32, got torch.float16",
    ),
    ({"activation": "gelu"}, ValueError, r"activation: expected None or 'relu', got 'gelu'"),
]
CONVOLUTIONS = [
    ({"x": X.float()}, NotImplementedError, r"x: expected uint8 or int8, got torch.float32"),
    ({"x": X[0]}, ValueError, r"x: expected 4 dimensions \(N, C, H, W\), got 3"),
    ({"x": X[:, :5]}, ValueError, r"x: expected 6 channels \(2 groups of 3\), got 5"),
    ({"x": X[:, :, :2]}, ValueError, r"x: expected an image that the kernel fits into"),
    (
        {"weight": WEIGHT.view(torch.uint8)},
        NotImplementedError,
        r"weight: expected torch.int8, got torch.uint8",
    ),
    ({"weight": WEIGHT[:0]}, ValueError, r"weight: expected at least 1 along every axis"),
    ({"stride": 0}, ValueError, r"stride: expected at least 1"),
    (
        {"x": LONG.view(1, -1, 1, 1), "weight": LONG.view(1, -1, 1, 1), "groups": 1},
        ValueError,
        r"weight: expected sums of at most 65793 products, .* got 65794",
    ),
]
SPARSE_WEIGHT, COLUMNS = torch.zeros(4, 2, dtype=torch.int8), torch.tensor([[0, 5], [3, 17]]).int()
SPARSE = {"weight": SPARSE_WEIGHT, "columns": COLUMNS, "kernel_size": (3, 2)}
SPARSES = [
    ({"x": X.float()}, NotImplementedError, r"x: expected uint8 or int8, got torch.float32"),
    (
        {"weight": SPARSE_WEIGHT.float()},
        NotImplementedError,
        r"weight: expected torch.int8, got torch.float32",
    ),
    (
        {"weight": SPARSE_WEIGHT[:, :1]},
        ValueError,
        r"columns: expected 1 of them, as many as weight has, got 2",
    ),
    ({"columns": COLUMNS.flip(1)}, ValueError, r"columns: expected strictly increasing indices"),
    ({"columns": COLUMNS + 1}, ValueError, r"columns: .* from 0 to 17, got 18"),
    ({"columns": COLUMNS.long()}, ValueError, r"columns: expected torch.int32, got torch.int64"),
    ({"kernel_size": 1}, ValueError, r"columns: expected .* from 0 to 2, got 5"),
]
CP_SCALES = {"factor_c_scale": torch.ones(6), "factor_k_scale": torch.ones(4)}
CP = {
    "factor_c": torch.zeros(6, 3, dtype=torch.int8),
    "factor_h": torch.zeros(6, 3),
    "factor_w": torch.zeros(6, 2),
    "factor_k": torch.zeros(4, 3, dtype=torch.int8),
    **CP_SCALES,
}
CP_CONV2D = {name: CONV2D[name] for name in CONV2D if name not in ("weight", "weight_scale")} | CP
CPS = [
    ({"x": X.float()}, NotImplementedError, r"x: expected uint8 or int8, got torch.float32"),
    ({"x": X[:, :5]}, ValueError, r"x: expected 6 channels \(2 groups of 3\), got 5"),
    ({"factor_c": torch.zeros(6, 3)}, NotImplementedError, r"factor_c: expected torch.int8"),
    ({"factor_h": CP["factor_c"]}, NotImplementedError, r"factor_h: expected torch.float32, got torch.int8"),
    ({"factor_w": torch.zeros(5, 2)}, ValueError, r"factor_w: expected 6 rows, the rank R .* got 5"),
    ({"factor_k": CP["factor_k"][:, :2]}, ValueError, r"factor_k: expected 3 columns"),
    (
        {"factor_c_scale": torch.ones(5)},
        ValueError,
        r"factor_c_scale: expected 6 elements, one a rank, got 5",
    ),
    ({"factor_k_scale": torch.ones(5)}, ValueError, r"factor_k_scale: expected 4 elements"),
    ({"factor_c_scale": -torch.ones(6)}, ValueError, r"factor_c_scale: .* positive .* got -1"),
    ({"factor_k_scale": torch.zeros(4)}, ValueError, r"factor_k_scale: .* positive .* got 0"),
]
LINEARS = [
    ({"x": X.float()}, NotImplementedError, r"x: expected uint8 or int8, got torch.float32"),
    ({"x": [1]}, TypeError, r"x: expected a tensor \(..., C\), got list"),
    ({"x": X[..., :6]}, ValueError, r"x: expected 7 elements in the last dimension, got \(2, 6, 5, 6\)"),
    ({"weight": WEIGHT}, ValueError, r"weight: expected 2 dimensions \(K, C\), got 4"),
    ({"x": LONG, "weight": LONG}, ValueError, r"weight: expected sums of at most 65793"),
]
GEMMS = [
    ({"a": X}, ValueError, r"a: expected 2 dimensions \(m, k\), got 4"),
    ({"a": X[0, 0].int()}, NotImplementedError, r"a: expected uint8 or int8, got torch.int32"),
    ({"b": X[0, 0].t()}, NotImplementedError, r"b: expected torch.int8, got torch.uint8"),
    ({"b": GEMM["b"][:6]}, ValueError, r"b: expected 7 rows like a's columns, got 6"),
    ({"b": ops.int8_gemm_pack(GEMM["b"])[1:]}, ValueError, r"b: expected the packed form of 7 rows, got"),
    ({"a_zero_point": -1}, ValueError, r"a_zero_point: expected 0 to 255 for torch.uint8, got -1"),
    ({"a": LONG, "b": LONG.t()}, ValueError, r"k: expected sums of at most 65793 products"),
]
QUANTIZE = {"x": X.float(), "scale": 0.1, "zero_point": 3, "dtype": torch.uint8}
QUANTIZES = [
    ({"x": X}, NotImplementedError, r"x: expected float32, got torch.uint8"),
    ({"x": [1.0]}, TypeError, r"x: expected a tensor, got list"),
    ({"scale": 0.0}, ValueError, r"^scale: expected a positive number, got 0.0"),
    ({"scale": "1"}, TypeError, r"^scale: expected a float, got '1'"),
    ({"zero_point": -1}, ValueError, r"^zero_point: expected 0 to 255 for torch.uint8, got -1"),
    ({"dtype": torch.int32}, ValueError, r"dtype: expected torch.uint8 or torch.int8, got torch.int32"),
]
ADD = {"a": X, "b": X, "a_scale": 0.1, "a_zero_point": 3, "b_scale": 0.2, "b_zero_point": 4, "out_scale": 0.3}
ADDS = [
    ({"a": X.float()}, NotImplementedError, r"a: expected uint8 or int8, got torch.float32"),
    ({"b": X.view(torch.int8)}, NotImplementedError, r"b: expected torch.uint8, got torch.int8"),
    ({"b": X[:1]}, ValueError, r"b: expected the shape of a, \(2, 6, 5, 7\), got \(1, 6, 5, 7\)"),
    ({"b": 1}, TypeError, r"b: expected a tensor, got int"),
    ({"b_scale": float("inf")}, ValueError, r"b_scale: expected a positive number, got inf"),
    ({"a_zero_point": 256}, ValueError, r"a_zero_point: expected 0 to 255"),
    ({"out_zero_point": 0.5}, TypeError, r"out_zero_point: expected an int, got 0.5"),
    ({"activation": "gelu"}, ValueError, r"activation: expected None or 'relu', got 'gelu'"),
]
MAX_POOL = {"x": X, "kernel_size": 3, "stride": 2, "padding": 1}
MAX_POOLS = [
    ({"x": X.float()}, NotImplementedError, r"x: expected uint8 or int8, got torch.float32"),
    ({"x": X[0]}, ValueError, r"x: expected 4 dimensions \(N, C, H, W\), got 3"),
    ({"x": [1]}, TypeError, r"x: expected a tensor \(N, C, H, W\), got list"),
    ({"x": X[:, :0]}, ValueError, r"x: expected at least 1 channel, got 0"),
    ({"x": X[:, :, :0]}, ValueError, r"x: expected an image of at least 1 x 1, got 0 x 7"),
    ({"x": X[..., :0]}, ValueError, r"x: expected an image of at least 1 x 1, got 5 x 0"),
    ({"kernel_size": 0}, ValueError, r"kernel_size: expected at least 1, got \(0, 0\)"),
    ({"kernel_size": 2.0}, TypeError, r"kernel_size: expected an int or a pair of ints, got 2.0"),
    ({"stride": (2, 0)}, ValueError, r"stride: expected at least 1, got \(2, 0\)"),
    ({"padding": -1}, ValueError, r"padding: expected at least 0"),
    ({"padding": (1, 2)}, ValueError, r"padding: expected at most half .* \(3, 3\), got \(1, 2\)"),
    ({"dilation": 0}, ValueError, r"dilation: expected at least 1"),
    ({"dilation": 2**31}, ValueError, r"dilation: expected at most 2147483647"),
    ({"dilation": 4}, ValueError, r"x: .* fits into, got 7 with its padding for a kernel of 9"),
    ({"ceil_mode": 1}, TypeError, r"ceil_mode: expected a bool, got 1"),
]
WRONG = [
    *((ops.int8_conv2d, CONV2D, *wrong) for wrong in SCALING + CONVOLUTIONS),
    *((ops.int8_column_sparse_conv2d, CONV2D | SPARSE, *wrong) for wrong in SCALING + SPARSES),
    *((ops.int8_cp_conv2d, CP_CONV2D, *wrong) for wrong in CPS),
    *((ops.int8_linear, LINEAR, *wrong) for wrong in SCALING + LINEARS),
    *((ops.int8_gemm, GEMM, *wrong) for wrong in GEMMS),
    *((ops.int8_quantize, QUANTIZE, *wrong) for wrong in QUANTIZES),
    *((ops.int8_add, ADD, *wrong) for wrong in ADDS),
    *((ops.int8_max_pool2d, MAX_POOL, *wrong) for wrong in MAX_POOLS),
]


@pytest.mark.parametrize(("operation", "good", "wrong", "error", "message"), WRONG)
def test_wrong_arguments_are_refused(
    operation: Any, good: dict[str, Any], wrong: dict[str, Any], error: type[Exception], message: str
) -> None:
    operation(**good)
    with pytest.raises(error, match=message):
        operation(**(good | wrong))


OPERATIONS = torch.ops.cnnkern
POOLING = [2, 2, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: OPERATIONS.int8_gemm(X[0, 0], GEMM["b"][:5], 0), "b: expected size 7"),
        (lambda: OPERATIONS.int8_gemm(X[0, 0], GEMM["b"], 300), "zero point: expected 0 to 255"),
        (lambda: OPERATIONS.int8_quantize(X.double(), 0.1, 0, torch.uint8), "x: expected float32"),
        (lambda: OPERATIONS.int8_quantize(X.float(), 0.1, 0, torch.int32), "dtype: expected uint8 or int8"),
        (lambda: OPERATIONS.int8_quantize(X.float(), 0.1, 300, torch.uint8), "zero_point: expected 0 to 255"),
        (lambda: OPERATIONS.int8_add(X, X[:1], 0.1, 0, 0.1, 0, 0.1, 0, False), "b: expected size 2"),
        (lambda: OPERATIONS.int8_add(X, X[0], 0.1, 0, 0.1, 0, 0.1, 0, False), "b: expected 4 dimensions"),
        (lambda: OPERATIONS.int8_add(X, X.float(), 0.1, 0, 0.1, 0, 0.1, 0, False), "b: expected the dtype"),
        (lambda: OPERATIONS.int8_add(X, X, 0.1, 0, 0.1, 0, -0.1, 0, False), "out_scale: expected a positive"),
        (lambda: OPERATIONS.int8_max_pool2d(X.float(), POOLING, False), "x: expected uint8 or int8"),
        (lambda: OPERATIONS.int8_max_pool2d(X[0], POOLING, False), "x: expected 4 dimensions"),
        (lambda: OPERATIONS.int8_max_pool2d(X[..., :0], POOLING, False), "x: expected at least one channel"),
        (lambda: OPERATIONS.int8_max_pool2d(X, POOLING[1:], False), "geometry: expected 8 numbers, got 7"),
        (lambda: OPERATIONS.int8_max_pool2d(X, [9, 9, *POOLING[2:]], False), "x: the kernel covers 9 values"),
        (lambda: OPERATIONS.int8_max_pool2d(X, [0, *POOLING[1:]], False), "kernel_size: .* numbers from 1"),
        (
            lambda: OPERATIONS.int8_max_pool2d(X, [2, 2, 1, 1, 2, 1, 1, 1], False),
            "padding: expected at most half of the kernel",
        ),
        (lambda: OPERATIONS.int8_gemm_pack(LONG.t()), "at most 65793"),
        (lambda: OPERATIONS.int8_gemm_packed(X[0, 0], LONG[0], 4, 0), "packed: expected size"),
        (lambda: OPERATIONS.int8_conv2d_pack(WEIGHT, 3), "groups: expected a divisor"),
        (lambda: OPERATIONS.int8_column_sparse_conv2d_pack(LONG, 1), "at most 65793"),
        (
            lambda: OPERATIONS.int8_column_sparse_conv2d_packed(
                *(X, LONG[0], None, [4, 3, 3, 2, 1, 1, 0, 0, 1, 1, 2], COLUMNS),
                *(torch.ones(4), 0.1, 3, None, 0, False),
            ),
            "packed: expected size",
        ),
        (
            lambda: OPERATIONS.int8_cp_conv2d_packed(
                *(X, LONG[0], None, [4, 6, 3, 3, 2, 1, 1, 0, 0, 1, 1, 2], *CP_SCALES.values()),
                *(0.1, 3, None, 0, False),
            ),
            "packed: expected size",
        ),
        (
            lambda: OPERATIONS.int8_cp_conv2d_packed(
                *(X, LONG[0], None, [4, 6, 3, 0, 2, 1, 1, 0, 0, 1, 1, 2], *CP_SCALES.values()),
                *(0.1, 3, None, 0, False),
            ),
            "factors: expected at least 1",
        ),
        (
            lambda: OPERATIONS.int8_conv2d_packed(
                *(X, LONG[0], None, [4, 3, 3, 2, 1, 1, 0, 0, 1, 1, 2], torch.ones(4), 0.1, 3, None, 0, False)
            ),
            "packed: expected size",
        ),
        (
            lambda: OPERATIONS.int8_linear_packed(
                *(X[0, 0], LONG[0], None, torch.ones(4), 0.1, 3, None, 0, False)
            ),
            "packed: expected size",
        ),
    ],
)
def test_the_operations_themselves_keep_memory_safe(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
