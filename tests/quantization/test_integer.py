"""What stands between int8 layers computes what floats would, rounded once."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnkern.quantization import Affine
from cnnkern.quantization.integer import (
    Dequantize,
    IntegerAdd,
    IntegerAveragePool,
    IntegerMaxPool,
    IntegerRelu,
    Quantize,
)

FORMATS = [torch.contiguous_format, torch.channels_last]
DTYPES = [torch.uint8, torch.int8]


def integers(*shape: int, dtype: torch.dtype = torch.uint8) -> Tensor:
    limits = torch.iinfo(dtype)
    return torch.randint(limits.min, limits.max + 1, shape, dtype=dtype)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 3, "stride": 2, "ceil_mode": True},
        {"kernel_size": (3, 2), "stride": (2, 3), "padding": (1, 1), "dilation": (2, 1), "ceil_mode": True},
        {"kernel_size": 2, "stride": 3, "padding": 1, "ceil_mode": True},
        {"kernel_size": (1, 3), "stride": (2, 1)},
    ],
    ids=str,
)
def test_max_pooling_is_that_of_torch(
    arguments: dict[str, Any], dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    pairs = {"stride": arguments["kernel_size"], "padding": 0, "dilation": 1, "ceil_mode": False, **arguments}
    pool = IntegerMaxPool(**{k: v if isinstance(v, tuple | bool) else (v, v) for k, v in pairs.items()})
    q = integers(2, 5, 13, 17, dtype=dtype).contiguous(memory_format=memory_format)
    y = pool(q)
    assert y.dtype == dtype
    assert torch.equal(y.float(), F.max_pool2d(q.float(), **arguments))
    assert y.is_contiguous(memory_format=memory_format)
    assert torch.equal(pool(q[0]), y[0])


def nearest(x: Tensor, grid: Affine) -> Tensor:
    """float64 values on the grid, as numbers of steps before they are rounded."""
    limits = torch.iinfo(grid.dtype)
    return (x / grid.scale + grid.zero_point).clamp(limits.min, limits.max)


def real(q: Tensor, grid: Affine) -> Tensor:
    return (q.double() - grid.zero_point) * grid.scale


# three roundings to float32 before the one to an integer
SLACK = 0.5 + 255 * 2**-22


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_sum_is_rounded_once(dtype: torch.dtype, relu: bool) -> None:
    first, second, output = (Affine.from_range(-low, 1.7, dtype) for low in (0.3, 2.0, 1.1))
    a, b = integers(2, 3, 9, 7, dtype=dtype), integers(2, 3, 1, 1, dtype=dtype)
    exact = real(a, first) + real(b, second)
    y = IntegerAdd(first, second, output, relu)(a, b)
    assert y.dtype == dtype
    assert (y.double() - nearest(exact.relu() if relu else exact, output)).abs().max() <= SLACK


@pytest.mark.parametrize(
    "pool",
    [nn.AdaptiveAvgPool2d(1), nn.AvgPool2d(3, stride=2, padding=1), nn.AdaptiveAvgPool2d((2, 5))],
    ids=str,
)
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_an_average_is_rounded_once(pool: nn.Module, memory_format: torch.memory_format) -> None:
    input, output = Affine.from_range(-1.0, 3.0), Affine.from_range(-0.5, 1.5)
    q = integers(2, 3, 9, 7).contiguous(memory_format=memory_format)
    y = IntegerAveragePool(pool, input, output)(q)
    assert (y.double() - nearest(pool(real(q, input)), output)).abs().max() <= SLACK


@pytest.mark.parametrize("ceiling", [None, 1.0])
def test_relu_is_on_its_grid(ceiling: float | None) -> None:
    grid = Affine.from_range(-2.0, 3.0, torch.int8)
    q = integers(100, dtype=torch.int8)
    exact = real(q, grid).clamp(0, ceiling)
    assert (real(IntegerRelu(grid, ceiling)(q), grid) - exact).abs().max() <= grid.scale / 2


def test_half_leaves_the_grids_alone() -> None:
    grid = Affine.from_range(-1.0, 3.0)
    x = torch.randn(50)
    expected = Dequantize(grid)(Quantize(grid)(x))
    assert torch.equal(Dequantize(grid).half()(Quantize(grid).half()(x)), expected)


def test_grids_are_in_the_state_dict() -> None:
    q = integers(4, 4), integers(4, 4)
    modules = [IntegerAdd(*(Affine.from_range(-n, n) for n in (i, i + 1, i + 2))) for i in (1, 5)]
    expected = modules[0](*q)
    modules[1].load_state_dict(modules[0].state_dict())
    assert torch.equal(modules[1](*q), expected)


def test_a_change_of_a_grid_is_seen() -> None:
    a, b = integers(4, 4), integers(4, 4)
    add = IntegerAdd(*(Affine.from_range(-n, n) for n in (1, 2, 3)))
    before = add(a, b)
    add.output_scale.mul_(2)
    other = IntegerAdd(*(Affine.from_range(-n, n) for n in (1, 2, 6)))
    assert not torch.equal(add(a, b), before)
    assert torch.equal(add(a, b), other(a, b))
    add.second_zero_point = add.second_zero_point + 3
    other.second_zero_point.add_(3)
    assert torch.equal(add(a, b), other(a, b))


def test_joints_compile_without_a_break() -> None:
    grids = [Affine.from_range(-n, n) for n in (1, 2, 3)]
    x = torch.randn(2, 3, 9, 7)
    for module, given in ((Quantize(grids[0]), (x,)), (IntegerAdd(*grids), (integers(9, 7), integers(9, 7)))):
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(*given), module(*given))


def test_joints_work_in_inference_mode() -> None:
    x = torch.randn(5, 7)
    with torch.inference_mode():
        quantize = Quantize(Affine.from_range(-1.0, 1.0))
        expected = quantize(x)
        quantize.output_scale.mul_(2)
        assert torch.equal(quantize(2 * x), expected)
