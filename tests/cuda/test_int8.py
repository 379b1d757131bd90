"""The CUDA kernels of the int8 operations give the integers of the reference, in either layout."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cnnkern import reference
from cnnkern.ops.int8_arguments import LONGEST_SUM
from tests.cuda.platforms import Platform
from tests.ops.cases import EDGES, GEOMETRY, GROUPS, KERNELS, Case, fenced, laid_out
from tests.ops.integers import DTYPES, conv2d_arguments, integers, varied_arguments

# One below and above what the kernels are cut by: chunks of 16 channels, tiles of 128 terms of a sum, 64 and
# 128 pixels, 64 and 128 output channels; depthwise, 4 channels and 4 pixels of a thread.
CUTS = [
    *(Case((1, channels, 3, 5), 5, (3, 3), padding=(1, 1)) for channels in (1, 3, 15, 16, 17, 32)),
    *(Case((1, channels, 2, 3), 3, (1, 1)) for channels in (127, 128, 129, 144, 300)),
    *(Case((1, 16, 3, width), 6, (1, 3), padding=(0, 1)) for width in (21, 22, 42, 43)),
    *(Case((1, 16, 2, 5), channels, (1, 1)) for channels in (63, 64, 65, 128, 132)),
    Case((2, 32, 9, 12), 24, (3, 3), padding=(1, 1)),
    Case((1, 32, 17, 16), 40, (5, 3), stride=(1, 2), padding=(2, 1), groups=2),
    Case((1, 16, 7, 9), 8, (3, 3), stride=(3, 2), dilation=(2, 3), padding=(2, 3)),
]
DEPTHWISE = [
    *(Case((2, 8, 3, width), 8, (3, 3), padding=(1, 1), groups=8) for width in (3, 4, 5)),
    Case((1, 20, 9, 8), 20, (3, 3), stride=(2, 1), dilation=(1, 2), padding=(1, 2), groups=20),
    Case((1, 132, 17, 9), 132, (3, 3), padding=(1, 1), groups=132, bias=False),
]
CASES = [*CUTS, *DEPTHWISE, *KERNELS[::3], *GEOMETRY, *GROUPS, *EDGES]
LAYOUTS = ("contiguous", "channels_last")

Arguments = tuple[list[Tensor | None], dict[str, Any]]


def numbers_of(options: dict[str, Any]) -> list[Any]:
    """What the operations take after the bias."""
    named = ("weight_scale", "x_scale", "x_zero_point", "out_scale", "out_zero_point")
    return [{"out_scale": None, "out_zero_point": 0, **options}[name] for name in named]


def convolve(on: Platform, case: Case, x: Tensor, tensors: list[Tensor | None], options: dict) -> Tensor:
    weight_scale, *numbers = numbers_of(options)
    pairs = [list(case.stride), list(case.padding), list(case.dilation)]
    given = [on.take(tensor) for tensor in (x, *map(fenced_in, tensors[1:]), fenced_in(weight_scale))]
    relu = options.get("activation") == "relu"
    return on.operations.int8_conv2d(*given, *numbers, *pairs, case.groups, relu).cpu()


def fenced_in(tensor: Tensor | None) -> Tensor | None:
    return fenced(tensor, 99)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_convolution_has_the_bits_of_the_reference(on: Platform, case: Case, layout: str) -> None:
    index = CASES.index(case) + 3 * LAYOUTS.index(layout)
    (x, weight, bias), options = varied_arguments(case, index)
    y = convolve(on, case, laid_out(x, layout, fill=77), [x, weight, bias], options)
    expected = reference.int8_conv2d(x, weight, bias, **options)
    assert y.dtype == expected.dtype
    assert torch.equal(y, expected)


@pytest.mark.parametrize("layout", [*LAYOUTS, "sliced", "sliced_channels_last"])
def test_packed_weights_and_any_layout_give_the_same_bits(on: Platform, layout: str) -> None:
    for case in (*CUTS[1::6], DEPTHWISE[3]):
        (x, weight, bias), options = conv2d_arguments(case, torch.uint8)
        packed = on.operations.int8_conv2d_pack(on.take(laid_out(weight, layout, fill=77)), case.groups)
        memory = torch.full((len(packed) + 78,), 99, dtype=torch.int8)  # not aligned to anything
        packed = memory[39:-39].copy_(packed)
        geometry = [*case.weight_size, *case.stride, *case.padding, *case.dilation, case.groups]
        weight_scale, *numbers = numbers_of(options)
        given = on.take(laid_out(x, layout, fill=77)), on.take(packed), on.take(bias), geometry
        y = on.operations.int8_conv2d_packed(*given, on.take(weight_scale), *numbers, False)
        assert torch.equal(y.cpu(), reference.int8_conv2d(x, weight, bias, **options)), str(case)


@pytest.mark.parametrize("multiprocessors", [1, 6, 1000])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_way_of_cutting_agrees(
    layout: str, multiprocessors: int, monkeypatch: pytest.MonkeyPatch, emulated: Platform
) -> None:
    """Large tiles, small tiles, and sums split over blocks."""
    monkeypatch.setenv("EMULATOR_MULTIPROCESSORS", str(multiprocessors))
    for index, case in enumerate(
        (
            Case((1, 160, 7, 19), 132, (3, 3), padding=(1, 1)),
            Case((1, 136, 20, 13), 68, (2, 3), stride=(2, 1), groups=2),
        )
    ):
        (x, weight, bias), options = varied_arguments(case, 4 * index + multiprocessors % 4)
        y = convolve(emulated, case, laid_out(x, layout, fill=77), [x, weight, bias], options)
        assert torch.equal(y, reference.int8_conv2d(x, weight, bias, **options)), str(case)


def test_rounds_to_nearest_with_ties_to_even(on: Platform) -> None:
    case = Case((1, 1, 1, 40), 1, (1, 1), bias=False)
    x, weight = torch.arange(40, dtype=torch.uint8).view(case.x), torch.ones(1, 1, 1, 1, dtype=torch.int8)
    options = {"x_scale": 0.5, "x_zero_point": 20, "weight_scale": torch.ones(1)}
    y = convolve(on, case, x, [x, weight, None], options | {"out_scale": 1.0, "out_zero_point": 100})
    assert torch.equal(y.flatten() - 100.0, (torch.arange(-20, 20) / 2).round())


def multiply(on: Platform, a: Tensor, b: Tensor, zero_point: int) -> tuple[Tensor, Tensor]:
    """The product with a plain b, and with a packed one."""
    a, b = on.take(fenced(a, 99)), on.take(b)
    packed = on.operations.int8_gemm_pack(b)
    return (
        on.operations.int8_gemm(a, b, zero_point).cpu(),
        on.operations.int8_gemm_packed(a, packed, b.shape[1], zero_point).cpu(),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (29, 64, 65), (15, 129, 70), (65, 256, 17), (0, 48, 5)], ids=str
)
def test_products_are_those_of_int64(on: Platform, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    """Random integers, and the extremes everywhere; b in either order."""
    (m, k, n), limits = shape, torch.iinfo(dtype)
    pairs = [(integers((m, k), dtype), integers((k, n), torch.int8))]
    for left in (limits.min, limits.max):
        pairs += [
            (torch.full((m, k), left, dtype=dtype), torch.full((n, k), right, dtype=torch.int8).t())
            for right in (-128, -127, 127)
        ]
    for zero_point in (limits.min, 3, limits.max):
        for a, b in pairs:
            expected = ((a.long() - zero_point) @ b.long()).int()
            for y in multiply(on, a, b, zero_point):
                assert torch.equal(y, expected)


@pytest.mark.parametrize(
    ("dtype", "value", "weight"),
    [(torch.uint8, 255, -128), (torch.uint8, 255, 127), (torch.int8, -128, -128)],
)
def test_the_longest_sum_is_exact(on: Platform, dtype: torch.dtype, value: int, weight: int) -> None:
    """Every product of the greatest magnitude, of activations less their zero point too."""
    a = torch.full((2, LONGEST_SUM), value, dtype=dtype)
    b = torch.full((LONGEST_SUM, 3), weight, dtype=torch.int8)
    zero_point = 127 if dtype is torch.int8 else 0
    expected = reference.int8_gemm(a, b, a_zero_point=zero_point)
    assert expected.abs().max() > 2**31 - 2**25
    assert torch.equal(multiply(on, a, b, zero_point)[1], expected)


@pytest.mark.parametrize("shape", [(13,), (3, 13), (2, 0, 13), (2, 3, 48)], ids=str)
@pytest.mark.parametrize("quantized", [False, True], ids=["float", "quantized"])
def test_linear_has_the_bits_of_the_reference(on: Platform, shape: tuple[int, ...], quantized: bool) -> None:
    k = shape[-1]
    x, weight, bias = integers(shape, torch.uint8), integers((19, k), torch.int8), torch.randn(19)
    options: dict[str, Any] = {"x_scale": 0.1, "x_zero_point": 99, "weight_scale": torch.rand(19) + 0.01}
    if quantized:
        options |= {"out_scale": 20.0, "out_zero_point": 101, "activation": "relu"}
    weight_scale, *numbers = numbers_of(options)
    last = (on.take(bias), on.take(weight_scale), *numbers, quantized)
    y = on.operations.int8_linear(on.take(x), on.take(weight), *last)
    packed = on.operations.int8_gemm_pack(on.take(weight).t())
    assert torch.equal(y, on.operations.int8_linear_packed(on.take(x), packed, *last))
    expected = reference.int8_linear(x.view(-1, k), weight, bias, **options).view(*shape[:-1], 19)
    assert torch.equal(y.cpu(), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(1, 3, 5, 7)}, "x: expected uint8 or int8"),
        ({"weight": torch.zeros(4, 2, 3, 3, dtype=torch.int8)}, "weight: expected size 3"),
        ({"weight": torch.zeros(4, 3, 3, 3, dtype=torch.uint8)}, "weight: expected int8"),
        ({"bias": torch.zeros(5)}, "bias: expected size 4"),
        ({"bias": torch.zeros(4).half()}, "bias: expected the dtype"),
        ({"weight_scale": torch.ones(3)}, "weight_scale: expected size 4"),
        ({"weight_scale": torch.ones(4).double()}, "weight_scale: expected float32"),
        ({"x_scale": 0.0}, "x_scale: expected a positive number, got 0"),
        ({"x_zero_point": 256}, "zero point: expected 0 to 255, got 256"),
        ({"out_scale": float("inf")}, "out_scale: expected a positive number, got inf"),
        ({"groups": 2}, "groups: expected a divisor"),
        ({"dilation": [9, 1]}, "x: the kernel covers"),
    ],
)
def test_wrong_arguments_are_refused(on: Platform, change: dict[str, Any], message: str) -> None:
    given = {
        "x": torch.zeros(1, 3, 5, 7, dtype=torch.uint8),
        "weight": torch.zeros(4, 3, 3, 3, dtype=torch.int8),
        "bias": torch.zeros(4),
        "weight_scale": torch.ones(4),
        "x_scale": 0.1,
        "x_zero_point": 3,
        "out_scale": 0.1,
        "out_zero_point": 0,
        "stride": [1, 1],
        "padding": [0, 0],
        "dilation": [1, 1],
        "groups": 1,
        "relu": False,
    } | change
    given = {name: on.take(value) if isinstance(value, Tensor) else value for name, value in given.items()}
    with pytest.raises(ValueError, match=message):
        on.operations.int8_conv2d(*given.values())


def test_packed_forms_of_another_size_are_refused(on: Platform) -> None:
    a, packed = (on.take(torch.zeros(size, dtype=torch.int8)) for size in ((3, 5), (63,)))
    with pytest.raises(ValueError, match="packed: expected size 80"):
        on.operations.int8_gemm_packed(a, packed, 4, 0)
    with pytest.raises(ValueError, match="k: expected sums of at most 65793"):
        on.operations.int8_gemm_packed(on.take(torch.zeros(1, 65794, dtype=torch.int8)), packed, 4, 0)
