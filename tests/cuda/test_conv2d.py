"""The CUDA kernels of conv2d, whatever computes them: on every arithmetic, in either layout."""

import pytest
import torch
from torch import Tensor

from cnnkern import reference
from tests.cuda.cases import CASES, CUTS, DEPTHWISE, LAYOUTS, with_dtype
from tests.cuda.conftest import Arithmetic, tf32
from tests.cuda.platforms import Platform
from tests.ops.cases import Case, fenced, laid_out


def convolve(
    on: Platform, case: Case, x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool = False
) -> Tensor:
    pairs = [list(case.stride), list(case.padding), list(case.dilation)]
    given = (on.take(tensor) for tensor in (x, weight, bias))
    return on.operations.conv2d(*given, *pairs, case.groups, relu).cpu()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", [*CASES, *DEPTHWISE], ids=str)
def test_agrees_with_the_reference(on: Platform, case: Case, layout: str, arithmetic: Arithmetic) -> None:
    x, weight, bias = with_dtype(case.conv2d_arguments(), arithmetic.dtype)
    y = convolve(on, case, laid_out(x, layout), fenced(weight), fenced(bias))
    reference.assert_within_mixed_bound(
        y, reference.conv2d, arithmetic.operand_eps, x, weight, bias, **case.options
    )


@pytest.mark.parametrize("layout", [*LAYOUTS, "sliced", "sliced_channels_last"])
def test_packed_weights_and_any_layout_give_the_same_bits(
    on: Platform, layout: str, arithmetic: Arithmetic
) -> None:
    for case in CUTS[::5]:
        x, weight, bias = with_dtype(case.conv2d_arguments(), arithmetic.dtype)
        expected = convolve(on, case, x.contiguous(), weight, bias)
        packed = on.operations.conv2d_pack(on.take(laid_out(weight, layout)), case.groups)
        geometry = [*case.weight_size, *case.stride, *case.padding, *case.dilation, case.groups]
        given = on.take(laid_out(x, layout)), packed, on.take(bias), geometry, False
        assert torch.equal(on.operations.conv2d_packed(*given).cpu(), expected), str(case)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_relu_is_applied_last(on: Platform, layout: str, arithmetic: Arithmetic) -> None:
    case = Case((2, 8, 5, 7), 12, (3, 3), padding=(1, 1))
    x, weight, bias = with_dtype(case.conv2d_arguments(), arithmetic.dtype)
    y = convolve(on, case, laid_out(x, layout), weight, bias, relu=True)
    assert torch.equal(y, convolve(on, case, laid_out(x, layout), weight, bias).relu())


def test_nan_passes_through_relu(on: Platform) -> None:
    case = Case((1, 3, 5, 7), 17, (3, 3), padding=(1, 1))
    x, weight, _ = case.conv2d_arguments()
    x[0, 1, 2, 3] = torch.nan
    expected = reference.conv2d(x, weight, padding=1, activation="relu")
    assert torch.equal(convolve(on, case, x, weight, None, relu=True).isnan(), expected.isnan())


@pytest.mark.parametrize("multiprocessors", [1, 6, 1000])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_way_of_cutting_agrees(
    layout: str,
    multiprocessors: int,
    arithmetic: Arithmetic,
    monkeypatch: pytest.MonkeyPatch,
    emulated: Platform,
) -> None:
    """Large tiles, small tiles, and sums split over blocks."""
    monkeypatch.setenv("EMULATOR_MULTIPROCESSORS", str(multiprocessors))
    for case in (
        Case((1, 40, 7, 19), 132, (3, 3), padding=(1, 1)),
        Case((1, 12, 20, 13), 68, (2, 3), stride=(2, 1), groups=2),
    ):
        x, weight, bias = with_dtype(case.conv2d_arguments(), arithmetic.dtype)
        y = convolve(emulated, case, laid_out(x, layout), weight, bias)
        reference.assert_within_mixed_bound(
            y, reference.conv2d, arithmetic.operand_eps, x, weight, bias, **case.options
        )


@pytest.mark.parametrize("case", DEPTHWISE[:2], ids=str)
def test_depthwise_channels_in_one_piece_give_the_same_bits(
    on: Platform, case: Case, arithmetic: Arithmetic
) -> None:
    x, weight, bias = with_dtype(case.conv2d_arguments(), arithmetic.dtype)
    aligned = x.contiguous(memory_format=torch.channels_last)
    y = convolve(on, case, aligned, weight, bias, relu=True)
    assert torch.equal(y, convolve(on, case, fenced(aligned), weight, bias, relu=True))


def test_depthwise_taps_that_fit_no_block_go_through_the_matrix_product(
    emulated: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMULATOR_SHARED_BYTES", str(99 << 10))
    case = Case((1, 2, 57, 59), 2, (56, 58), groups=2)
    x, weight, bias = with_dtype(case.conv2d_arguments(), torch.bfloat16)
    y = convolve(emulated, case, laid_out(x, "channels_last"), weight, bias)
    eps = torch.finfo(torch.bfloat16).eps
    reference.assert_within_mixed_bound(y, reference.conv2d, eps, x, weight, bias, **case.options)


def test_tf32_is_used_where_torch_allows_it(on: Platform) -> None:
    """Factors that TF32 cannot hold."""
    x = torch.full((1, 8, 3, 3), 1 + 2.0**-12)
    weight = torch.ones(4, 8, 1, 1)
    case = Case((1, 8, 3, 3), 4, (1, 1))
    with tf32(False):
        assert (convolve(on, case, x, weight, None) == 8 + 2.0**-9).all()
    with tf32(True):
        assert (convolve(on, case, x, weight, None) == 8).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_depthwise_convolutions_go_past_the_tensor_cores(on: Platform, layout: str) -> None:
    x = torch.full((1, 8, 3, 3), 1 + 2.0**-12)
    case = Case((1, 8, 3, 3), 16, (1, 1), groups=8)
    with tf32(True):
        y = convolve(on, case, laid_out(x, layout), torch.ones(16, 1, 1, 1), None)
    assert (y == 1 + 2.0**-12).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.randn(4, 2, 3, 3)}, "weight: expected size 3"),
        ({"bias": torch.randn(5)}, "bias: expected size 4"),
        ({"weight": torch.randn(4, 3, 3, 3).half()}, "weight: expected the dtype of x"),
        ({"stride": [0, 1]}, "stride: expected numbers from 1 to"),
        ({"groups": 2}, "groups: expected a divisor"),
        ({"dilation": [9, 1]}, "x: the kernel covers"),
    ],
)
def test_wrong_arguments_are_refused(on: Platform, change: dict, message: str) -> None:
    given = {
        "x": torch.randn(1, 3, 5, 7),
        "weight": torch.randn(4, 3, 3, 3),
        "bias": torch.randn(4),
        "stride": [1, 1],
        "padding": [0, 0],
        "dilation": [1, 1],
        "groups": 1,
        "relu": False,
    } | change
    given = {name: on.take(value) if isinstance(value, Tensor) else value for name, value in given.items()}
    with pytest.raises(ValueError, match=message):
        on.operations.conv2d(*given.values())
