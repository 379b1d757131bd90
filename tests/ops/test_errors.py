"""Wrong arguments are refused before anything is computed, in words that name the argument and what came."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from cnnkern import ops

X = torch.randn(2, 6, 5, 7)
GOOD: dict[Callable[..., Tensor], dict[str, Any]] = {
    ops.im2col: {"x": X, "kernel_size": (3, 2)},
    ops.conv2d: {"x": X, "weight": torch.randn(4, 3, 3, 2), "bias": torch.randn(4), "groups": 2},
    ops.column_sparse_conv2d: {
        "x": X,
        "weight": torch.randn(4, 5),
        "columns": torch.tensor([[0, 1, 6, 7, 17], [2, 3, 4, 15, 16]], dtype=torch.int32),
        "bias": torch.randn(4),
        "kernel_size": (3, 2),
        "groups": 2,
    },
    ops.cp_conv2d: {
        "x": X,
        "factor_c": torch.randn(10, 3),
        "factor_h": torch.randn(10, 3),
        "factor_w": torch.randn(10, 2),
        "factor_k": torch.randn(4, 5),
        "bias": torch.randn(4),
        "groups": 2,
    },
    ops.perforated_conv2d: {
        "x": X,
        "weight": torch.randn(4, 3, 3, 2),
        "mask": torch.ones(3, 6, dtype=torch.bool),
        "bias": torch.randn(4),
        "groups": 2,
    },
}


COLUMNS = GOOD[ops.column_sparse_conv2d]["columns"]


class Wrong(NamedTuple):
    """What replaces good arguments, and the error that it leads to."""

    arguments: dict[str, Any]
    error: type[Exception]
    message: str


EVERYWHERE = [
    Wrong({"x": [[1.0]]}, TypeError, r"x: expected a tensor \(N, C, H, W\), got list"),
    Wrong({"x": X[0]}, ValueError, r"x: expected 4 dimensions \(N, C, H, W\), got 3: \(6, 5, 7\)"),
    Wrong(
        {"x": X[:, :, :2]}, ValueError, r"x: expected an image that the kernel fits into, got 2 x 7 .* 3 x 2"
    ),
    Wrong({"x": X[:, :, :0], "padding": 2}, ValueError, r"x: expected an image of at least 1 x 1, got 0 x 7"),
    Wrong({"x": X.half()}, NotImplementedError, r"x: expected float32 or float64, got torch.float16"),
    Wrong({"x": X.int()}, NotImplementedError, r"x: expected float32 or float64, got torch.int32"),
    Wrong({"stride": 0}, ValueError, r"stride: expected at least 1, got \(0, 0\)"),
    Wrong({"stride": (1, -2)}, ValueError, r"stride: expected at least 1, got \(1, -2\)"),
    Wrong({"stride": (1, 2**62)}, ValueError, r"stride: expected at most 2147483647, got \(1, 4611"),
    Wrong({"stride": (1, 2, 3)}, ValueError, r"stride: expected an int or a pair of ints, got 3 of them"),
    Wrong({"stride": 1.0}, TypeError, r"stride: expected an int or a pair of ints, got 1.0"),
    Wrong({"stride": ("1", 1)}, TypeError, r"stride: expected an int or a pair of ints, got \('1', 1\)"),
    Wrong({"padding": -1}, ValueError, r"padding: expected at least 0, got \(-1, -1\)"),
    Wrong({"padding": 2**31}, ValueError, r"padding: expected at most 2147483647, got \(2147483648, 2147"),
    Wrong({"padding": "same"}, TypeError, r"padding: expected an int or a pair of ints, got 'same'"),
    Wrong({"dilation": (0, 1)}, ValueError, r"dilation: expected at least 1, got \(0, 1\)"),
    Wrong({"dilation": 3}, ValueError, r"x: expected an image that the kernel fits into, .* 7 x 4"),
]
CONVOLUTIONS = [
    Wrong({"x": X[:, :5]}, ValueError, r"x: expected 6 channels \(2 groups of 3\), got 5"),
    Wrong(
        {"x": X.double()}, ValueError, r"(weight|factor_c): expected torch.float64 like x, got torch.float32"
    ),
    Wrong({"bias": torch.randn(3)}, ValueError, r"bias: expected 4 elements, one an output channel, got 3"),
    Wrong({"bias": torch.randn(4, 1)}, ValueError, r"bias: expected 1 dimensions \(K\), got 2: \(4, 1\)"),
    Wrong({"bias": torch.randn(4).double()}, ValueError, r"bias: expected torch.float32 like x"),
    Wrong({"bias": 1.0}, TypeError, r"bias: expected a tensor \(K\), got float"),
    Wrong({"groups": 0}, ValueError, r"groups: expected at least 1, got 0"),
    Wrong({"groups": 1.5}, TypeError, r"groups: expected an int, got 1.5"),
    Wrong({"groups": True}, TypeError, r"groups: expected an int, got True"),
]
TABLE: dict[Callable[..., Tensor], list[Wrong]] = {
    ops.im2col: [
        *EVERYWHERE,
        Wrong({"kernel_size": (0, 1)}, ValueError, r"kernel_size: expected at least 1, got \(0, 1\)"),
        Wrong({"kernel_size": None}, TypeError, r"kernel_size: expected an int or a pair of ints, got None"),
        Wrong({"x": X[:, :0]}, ValueError, r"x: expected at least 1 channel, got 0"),
    ],
    ops.conv2d: [
        *EVERYWHERE,
        *CONVOLUTIONS,
        Wrong(
            {"weight": torch.randn(4, 3, 3)},
            ValueError,
            r"weight: expected 4 dimensions .* got 3: \(4, 3, 3\)",
        ),
        Wrong(
            {"weight": torch.randn(4, 3, 0, 2)}, ValueError, r"weight: expected at least 1 along every axis"
        ),
        Wrong({"weight": None}, TypeError, r"weight: expected a tensor .*, got NoneType"),
        Wrong({"groups": 3}, ValueError, r"groups: expected a divisor of the 4 output channels, got 3"),
        Wrong({"activation": "gelu"}, ValueError, r"activation: expected None or 'relu', got 'gelu'"),
    ],
    ops.column_sparse_conv2d: [
        *EVERYWHERE,
        *CONVOLUTIONS[1:],
        Wrong({"x": X[:, :5]}, ValueError, r"x: expected channels that 2 groups divide, got 5"),
        Wrong({"kernel_size": 0}, ValueError, r"kernel_size: expected at least 1, got \(0, 0\)"),
        Wrong({"weight": torch.randn(4, 3, 2, 2)}, ValueError, r"weight: expected 2 dimensions \(K, nnz\)"),
        Wrong({"weight": torch.randn(4, 4)}, ValueError, r"columns: expected 4 of them, .* got 5"),
        Wrong(
            {"weight": torch.randn(3, 5)}, ValueError, r"groups: expected a divisor of the 3 output channels"
        ),
        Wrong({"columns": COLUMNS[0]}, ValueError, r"columns: expected 2 dimensions \(groups, nnz\), got 1"),
        Wrong({"columns": COLUMNS[:1]}, ValueError, r"columns: expected 2 rows, one a group, got 1"),
        Wrong({"columns": COLUMNS.long()}, ValueError, r"columns: expected torch.int32, got torch.int64"),
        Wrong({"columns": [0, 1]}, TypeError, r"columns: expected a tensor \(groups, nnz\), got list"),
        Wrong(
            {"weight": torch.randn(4, 19), "columns": torch.zeros(2, 19, dtype=torch.int32)},
            ValueError,
            r"columns: expected no more than the 18 that there are, got 19",
        ),
    ],
    ops.cp_conv2d: [
        *EVERYWHERE,
        *CONVOLUTIONS,
        Wrong(
            {"factor_c": torch.randn(10)}, ValueError, r"factor_c: expected 2 dimensions .* got 1: \(10,\)"
        ),
        Wrong(
            {"factor_h": torch.randn(9, 3)}, ValueError, r"factor_h: expected 10 rows, the rank R .*, got 9"
        ),
        Wrong(
            {"factor_w": torch.randn(9, 2)}, ValueError, r"factor_w: expected 10 rows, the rank R .*, got 9"
        ),
        Wrong(
            {"factor_w": torch.randn(10, 0)}, ValueError, r"factors .*: expected at least 1 along every axis"
        ),
        Wrong(
            {"factor_k": torch.randn(4, 10)}, ValueError, r"factor_k: expected 5 columns, R/groups .*, got 10"
        ),
        Wrong(
            {"factor_k": torch.randn(5, 5)},
            ValueError,
            r"groups: expected a divisor of the 5 output channels",
        ),
        Wrong({"factor_k": torch.randn(4, 5).int()}, NotImplementedError, r"factor_k: .* got torch.int32"),
        Wrong({"groups": 3}, ValueError, r"groups: expected a divisor of the rank R = 10, got 3"),
    ],
    ops.perforated_conv2d: [
        *EVERYWHERE,
        *CONVOLUTIONS,
        Wrong({"weight": torch.randn(4, 3, 3)}, ValueError, r"weight: expected 4 dimensions .* got 3"),
        Wrong({"mask": None}, TypeError, r"mask: expected a tensor \(oH, oW\) or .*, got NoneType"),
        Wrong({"mask": torch.ones(3, 6)}, TypeError, r"mask: expected .* torch.bool, got torch.float32"),
        Wrong(
            {"mask": torch.ones(5, 7).bool()}, ValueError, r"mask: expected the output's size \(3, 6\), or .*"
        ),
        Wrong({"mask": torch.ones(1, 3, 6).bool()}, ValueError, r"mask: .* \(2, 3, 6\) .* got \(1, 3, 6\)"),
        Wrong({"mask": torch.ones(6).bool()}, ValueError, r"mask: expected the output's size .* got \(6,\)"),
        Wrong(
            {"interpolation": "linear"},
            ValueError,
            r"interpolation: expected 'nearest' or 'none', got 'linear'",
        ),
    ],
}
ROWS = [
    pytest.param(operation, wrong, id=f"{operation.__name__}-{number}-{'-'.join(wrong.arguments)}")
    for operation, rows in TABLE.items()
    for number, wrong in enumerate(rows)
]


def moved(arguments: dict[str, Any], device: str) -> dict[str, Any]:
    return {name: a.to(device) if isinstance(a, Tensor) else a for name, a in arguments.items()}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(("operation", "wrong"), ROWS)
def test_wrong_arguments_are_refused(operation: Callable[..., Tensor], wrong: Wrong, device: str) -> None:
    with pytest.raises(wrong.error, match=wrong.message):
        operation(**moved({**GOOD[operation], **wrong.arguments}, device))


@pytest.mark.parametrize("operation", GOOD, ids=lambda operation: operation.__name__)
def test_good_arguments_are_not(operation: Callable[..., Tensor]) -> None:
    assert operation(**GOOD[operation]).isfinite().all()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ([[0, 1, 6, 6, 17]] * 2, "got 6 at position 3 after 6"),
        ([[0, 1, 7, 6, 17]] * 2, "got 6 at position 3 after 7"),
        ([[0, 1, 6, 7, 17], [0, 1, 6, 7, 18]], "got 18 at position 4 after 7"),
        ([[-1, 1, 6, 7, 17]] * 2, "got -1 at position 0"),
    ],
    ids=["twice", "unsorted", "outside", "negative"],
)
def test_columns_that_cannot_be_are_refused(columns: list[list[int]], message: str) -> None:
    arguments = {
        **GOOD[ops.column_sparse_conv2d],
        "columns": torch.tensor(columns, dtype=torch.int32),
    }
    message = f"columns: expected strictly increasing indices from 0 to 17, {message}$"
    with pytest.raises(ValueError, match=message):
        ops.column_sparse_conv2d(**arguments)


@pytest.mark.parametrize(
    "operation",
    [ops.conv2d, ops.cp_conv2d, ops.column_sparse_conv2d],
    ids=lambda operation: operation.__name__,
)
def test_tensors_on_several_devices_are_refused(operation: Callable[..., Tensor]) -> None:
    with pytest.raises(ValueError, match=r"bias: expected a tensor on cpu like x, got one on meta"):
        operation(**{**GOOD[operation], "bias": torch.randn(4, device="meta")})


# What the binding is asked for directly: it repeats what memory safety needs, whatever the words.
GOOD_PAIRS = [[1, 1], [0, 0], [1, 1]]
STEPS = [1, 1, 0, 0, 1, 1, 2]  # of the one list of a packed operation, with two groups
WEIGHT, FACTORS = GOOD[ops.conv2d]["weight"], [GOOD[ops.cp_conv2d][f"factor_{axis}"] for axis in "chwk"]
BIAS, PACKED = torch.randn(4), torch.ops.cnnkern.conv2d_pack(torch.randn(4, 3, 3, 2), 2)
MASK = torch.ones(3, 6).bool()
ARRANGED = torch.ops.cnnkern.perforated_conv2d_arrange(MASK, True)
SPARSE = GOOD[ops.column_sparse_conv2d]["weight"]
PACKED_SPARSE = torch.ops.cnnkern.column_sparse_conv2d_pack(SPARSE, COLUMNS, [3, 2], 2)
PACKED_FACTORS = torch.ops.cnnkern.cp_conv2d_pack(*FACTORS, 2)
UNSAFE = {
    "im2col": [
        (X, [3], *GOOD_PAIRS),
        (X, [3, 2], [0, 1], [0, 0], [1, 1]),
        (X, [3, 2], [1, 1], [-1, 0], [1, 1]),
        (X, [9, 2], *GOOD_PAIRS),
        (X.half(), [3, 2], *GOOD_PAIRS),
    ],
    "conv2d": [
        (X[0], WEIGHT, BIAS, *GOOD_PAIRS, 2, False),
        (X[:, :5], WEIGHT, BIAS, *GOOD_PAIRS, 2, False),
        (X[:, :, :0], WEIGHT, BIAS, [1, 1], [9, 9], [1, 1], 2, False),
        (X, WEIGHT, BIAS[:3], *GOOD_PAIRS, 2, False),
        (X, WEIGHT, BIAS.double(), *GOOD_PAIRS, 2, False),
        (X, WEIGHT.double(), BIAS, *GOOD_PAIRS, 2, False),
        (X, WEIGHT[:, :, :0], BIAS, *GOOD_PAIRS, 2, False),
        (X, WEIGHT, BIAS, *GOOD_PAIRS, 0, False),
        (X, WEIGHT, BIAS, *GOOD_PAIRS, -2, False),
        (X, WEIGHT, BIAS, [1], [0, 0], [1, 1], 2, False),
        (X, WEIGHT, BIAS, [1, 1], [0, 0], [1, 0], 2, False),
        (X, WEIGHT, BIAS, [1, 2**62], [0, 0], [1, 1], 2, False),
        (X, WEIGHT, BIAS, [1, 1], [0, 0], [2**63 - 1, 1], 2, False),  # times two taps: -2
        (X, WEIGHT, BIAS, [1, 1], [2**62, 2**62], [2**62, 2**62], 2, False),
    ],
    "conv2d_pack": [(WEIGHT, 3), (WEIGHT, 0), (WEIGHT[0], 1), (WEIGHT.int(), 1)],
    "conv2d_packed": [
        (X, PACKED[1:], BIAS, [4, 3, 3, 2, *STEPS], False),
        (X, PACKED.double(), BIAS, [4, 3, 3, 2, *STEPS], False),
        (X, PACKED[None], BIAS, [4, 3, 3, 2, *STEPS], False),
        (X, PACKED, BIAS, [4, 3, 3, 3, *STEPS], False),
        (X, PACKED, BIAS, [4, 3, 3, *STEPS], False),
        (X, PACKED, BIAS, [-4, 3, 3, -2, *STEPS], False),
    ],
    "column_sparse_conv2d": [
        (X, SPARSE, COLUMNS, BIAS, [3], *GOOD_PAIRS, 2),
        (X, SPARSE, COLUMNS, BIAS, [0, 2], *GOOD_PAIRS, 2),
        (X, SPARSE, COLUMNS, BIAS, [2**32, 2**32], *GOOD_PAIRS, 2),
        (X, SPARSE, COLUMNS, BIAS, [3, 2], [2**62, 1], [0, 0], [1, 1], 2),
        (X, SPARSE[:, :4], COLUMNS, BIAS, [3, 2], *GOOD_PAIRS, 2),
        (X, SPARSE, COLUMNS[0], BIAS, [3, 2], *GOOD_PAIRS, 2),
        (X, SPARSE, COLUMNS.long(), BIAS, [3, 2], *GOOD_PAIRS, 2),
        (X, SPARSE, COLUMNS, BIAS[:3], [3, 2], *GOOD_PAIRS, 2),
        (X, SPARSE, COLUMNS, BIAS, [3, 2], *GOOD_PAIRS, 0),
        (X.double(), SPARSE, COLUMNS, BIAS, [3, 2], *GOOD_PAIRS, 2),
    ],
    "column_sparse_conv2d_pack": [
        (SPARSE, COLUMNS, [3, 2], 1),
        (SPARSE, COLUMNS, [3, 2], 0),
        (SPARSE, COLUMNS[:, :4], [3, 2], 2),
        (SPARSE, COLUMNS, [3], 2),
        (SPARSE, COLUMNS, [3, -2], 2),
    ],
    "column_sparse_conv2d_packed": [
        (X, PACKED_SPARSE[1:], BIAS, [4, 3, 3, 2, *STEPS], COLUMNS),
        (X, PACKED_SPARSE, BIAS, [4, 3, 3, *STEPS], COLUMNS),
        (X, PACKED_SPARSE, BIAS, [4, 2, 3, 2, *STEPS], COLUMNS),
        (X, PACKED_SPARSE, BIAS, [4, 3, 3, 2, *STEPS], COLUMNS[:, :4]),
        (X, PACKED_SPARSE, BIAS, [4, 3, 3, 2, *STEPS], COLUMNS.float()),
        (X, PACKED_SPARSE, BIAS, [-4, 3, 3, -2, *STEPS], COLUMNS),
    ],
    "cp_conv2d": [
        (X, FACTORS[0][:9], *FACTORS[1:], BIAS, *GOOD_PAIRS, 2),
        (X, FACTORS[0][:, :2], *FACTORS[1:], BIAS, *GOOD_PAIRS, 2),
        (X, *FACTORS[:3], FACTORS[3][:, :4], BIAS, *GOOD_PAIRS, 2),
        (X, *FACTORS[:3], FACTORS[3][:3], BIAS, *GOOD_PAIRS, 2),
        (X, FACTORS[0], FACTORS[1][:, :0], *FACTORS[2:], BIAS, *GOOD_PAIRS, 2),
        (X, FACTORS[0].double(), *FACTORS[1:], BIAS, *GOOD_PAIRS, 2),
        (X, *FACTORS, BIAS, *GOOD_PAIRS, 3),
        (X, *FACTORS, BIAS, *GOOD_PAIRS, 0),
    ],
    "perforated_conv2d": [
        (X[0], WEIGHT, MASK, BIAS, *GOOD_PAIRS, 2, True),
        (X, WEIGHT[0], MASK, BIAS, *GOOD_PAIRS, 2, True),
        (X, WEIGHT, MASK[1:], BIAS, *GOOD_PAIRS, 2, True),
        (X, WEIGHT, MASK[0], BIAS, *GOOD_PAIRS, 2, True),
        (X, WEIGHT, MASK.float(), BIAS, *GOOD_PAIRS, 2, True),
        (X, WEIGHT, MASK.expand(3, 3, 6), BIAS, *GOOD_PAIRS, 2, True),
        (X, WEIGHT, MASK[:1, :1], BIAS, [2**62, 2**62], [0, 0], [1, 1], 2, True),
    ],
    "perforated_conv2d_backward": [
        (X, X, WEIGHT, MASK, *GOOD_PAIRS, 2, True, [True, True, True]),
        (X.new_empty(2, 4, 3, 6), X, WEIGHT, MASK[1:], *GOOD_PAIRS, 2, True, [True, True, True]),
        (X.new_empty(2, 4, 3, 6), X, WEIGHT[0], MASK, *GOOD_PAIRS, 2, True, [True, True, True]),
    ],
    "perforated_conv2d_sources": [(MASK[0], True), (MASK[:0], True), (MASK.int(), True)],
    "perforated_conv2d_arrange": [(MASK[0], True), (MASK[:0], True), (MASK.int(), True)],
    "perforated_conv2d_packed": [
        (X, PACKED[1:], BIAS, [4, 3, 3, 2, *STEPS], ARRANGED),
        (X, PACKED, BIAS, [4, 3, 3, 2, *STEPS], ARRANGED[1:]),
        (X, PACKED, BIAS, [4, 3, 3, 2, *STEPS], ARRANGED[:, 1:]),
        (X, PACKED, BIAS, [4, 3, 3, 2, *STEPS], ARRANGED.expand(3, 2, 3, 6)),
        (X, PACKED, BIAS, [4, 3, 3, 2, *STEPS], ARRANGED.long()),
        (X, PACKED, BIAS, [4, 3, 3, *STEPS], ARRANGED),
    ],
    "cp_conv2d_pack": [(*FACTORS, 3), (*FACTORS, 0), (*FACTORS[:3], FACTORS[3][:, :4], 2)],
    "cp_conv2d_packed": [
        (X, PACKED_FACTORS[1:], BIAS, [4, 10, 3, 3, 2, *STEPS]),
        (X, PACKED_FACTORS, BIAS, [4, 10, 3, 3, *STEPS]),
        (X, PACKED_FACTORS, BIAS, [4, 9, 3, 3, 2, *STEPS]),
        (X, PACKED_FACTORS, BIAS, [4, 10, 4, 3, 2, *STEPS]),
        (X, PACKED_FACTORS, BIAS, [4, -10, 3, -3, -2, *STEPS]),
    ],
}
CALLS = [
    pytest.param(name, arguments, id=f"{name}-{number}")
    for name, calls in UNSAFE.items()
    for number, arguments in enumerate(calls)
]


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(("name", "arguments"), CALLS)
def test_the_registered_operation_refuses_what_is_unsafe(name: str, arguments: tuple, device: str) -> None:
    moved_arguments = [a.to(device) if isinstance(a, Tensor) else a for a in arguments]
    with pytest.raises((ValueError, RuntimeError, TypeError)):
        getattr(torch.ops.cnnkern, name)(*moved_arguments)


OWNER, KEPT = ARRANGED


@pytest.mark.parametrize(
    "arrays",
    [(OWNER - 2, KEPT), (OWNER + 1, KEPT), (OWNER, KEPT + 1), (OWNER, KEPT.flip(0)), (OWNER, KEPT * 0 - 1)],
    ids=["owner below", "owner above", "kept above", "kept in turn", "none kept"],
)
def test_arrays_of_a_perforation_that_lead_nowhere_are_refused(arrays: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match="arranged: expected"):
        torch.ops.cnnkern.perforated_conv2d_packed(X, PACKED, BIAS, [4, 3, 3, 2, *STEPS], torch.stack(arrays))
