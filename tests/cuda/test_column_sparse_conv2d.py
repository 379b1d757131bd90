"""The CUDA kernels of column_sparse_conv2d and its gradients: on every arithmetic, in either layout."""

import pytest
import torch
from torch import Tensor

from cnnkern import reference
from tests.cuda.cases import CASES, CUTS, LAYOUTS, with_dtype
from tests.cuda.conftest import Arithmetic
from tests.cuda.platforms import Platform
from tests.ops.cases import Case, fenced, laid_out

DENSITIES = {"all": 1.0, "few": 0.1, "one": 0.0}
LARGE = Case((2, 40, 9, 11), 132, (3, 2), stride=(2, 1), padding=(1, 1), groups=2)
TRAINED = [
    *(case for case in CASES[1::6] if case.x[0]),
    Case((2, 8, 11, 10), 16, (3, 3), stride=(2, 2), padding=(1, 1)),
    Case((2, 16, 8, 9), 16, (3, 3), stride=(2, 3), dilation=(2, 2), padding=(5, 4), groups=2),
]
by_layout = pytest.mark.parametrize("layout", LAYOUTS)
by_density = pytest.mark.parametrize("density", DENSITIES.values(), ids=DENSITIES)


def geometry(case: Case) -> list[list[int]]:
    return [list(pair) for pair in (case.kernel, case.stride, case.padding, case.dilation)]


def convolve(on: Platform, case: Case, arguments: list[Tensor | None]) -> Tensor:
    given = map(on.take, arguments)
    return on.operations.column_sparse_conv2d(*given, *geometry(case), case.groups).cpu()


def assert_agrees(y: Tensor, case: Case, arguments: list[Tensor | None], eps: float) -> None:
    options = {"kernel_size": case.kernel, **case.options}
    reference.assert_within_mixed_bound(y, reference.column_sparse_conv2d, eps, *arguments, **options)


def operands(case: Case, arithmetic: Arithmetic, density: float = 0.3) -> list[Tensor | None]:
    """x, weight, columns and bias."""
    x, weight, columns, bias = case.column_sparse_arguments(density=density)
    x, weight, bias = with_dtype([x, weight, bias], arithmetic.dtype)
    return [x, weight, columns, bias]


@by_layout
@pytest.mark.parametrize("case", CASES[::2], ids=str)
def test_agrees_with_the_reference(on: Platform, case: Case, layout: str, arithmetic: Arithmetic) -> None:
    x, weight, columns, bias = arguments = operands(case, arithmetic)
    y = convolve(on, case, [laid_out(x, layout), fenced(weight), columns, fenced(bias)])
    assert_agrees(y, case, arguments, arithmetic.operand_eps)


@by_density
@by_layout
def test_any_number_of_columns_may_be_kept(
    on: Platform, layout: str, density: float, arithmetic: Arithmetic
) -> None:
    for case in (LARGE, *CUTS[4::9]):
        x, weight, columns, bias = arguments = operands(case, arithmetic, density)
        y = convolve(on, case, [laid_out(x, layout), weight, columns, bias])
        assert_agrees(y, case, arguments, arithmetic.operand_eps)


@by_layout
def test_runs_of_channels_may_be_kept(on: Platform, layout: str, arithmetic: Arithmetic) -> None:
    """Whole chunks of neighbouring channels, which are copied, among columns that stand alone."""
    case = Case((2, 32, 9, 8), 20, (3, 3), padding=(1, 2))
    kept = torch.zeros(32, 9, dtype=torch.bool)
    kept[8:24, :4] = True
    kept[3, 6] = kept[5, 7] = kept[9, 8] = True
    columns = kept.flatten().nonzero().flatten().int()
    x, weight, bias = with_dtype(
        [torch.randn(case.x), torch.randn(20, len(columns)), torch.randn(20)], arithmetic.dtype
    )
    last = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    dense = x.contiguous(memory_format=last)
    for image in (laid_out(x, layout), dense):  # what is not aligned cannot be copied
        y = convolve(on, case, [image, weight, columns, bias])
        assert_agrees(y, case, [x, weight, columns, bias], arithmetic.operand_eps)


@by_layout
def test_without_columns_the_bias_is_left(on: Platform, layout: str, arithmetic: Arithmetic) -> None:
    for case in (LARGE, CUTS[0]):
        x, weight, columns, bias = operands(case, arithmetic)
        y = convolve(on, case, [laid_out(x, layout), weight[:, :0], columns[..., :0], bias])
        assert torch.equal(y, bias[:, None, None].expand_as(y))


@pytest.mark.parametrize("layout", [*LAYOUTS, "sliced", "sliced_channels_last"])
def test_packed_weights_and_any_layout_give_the_same_bits(
    on: Platform, layout: str, arithmetic: Arithmetic
) -> None:
    for case in (LARGE, *CUTS[1::6]):
        x, weight, columns, bias = operands(case, arithmetic)
        expected = convolve(on, case, [x.contiguous(), weight, columns, bias])
        strided = torch.stack([weight, torch.full_like(weight, torch.nan)], 2)[..., 0]
        packed = on.operations.column_sparse_conv2d_pack(
            on.take(strided), on.take(columns), list(case.kernel), case.groups
        )
        numbers = [*case.weight_size, *case.stride, *case.padding, *case.dilation, case.groups]
        given = on.take(laid_out(x, layout)), packed, on.take(bias), numbers, on.take(columns)
        y = on.operations.column_sparse_conv2d_packed(*given)
        assert torch.equal(y.cpu(), expected), str(case)


@pytest.mark.parametrize("multiprocessors", [1, 6, 1000])
@by_layout
def test_every_way_of_cutting_agrees(
    layout: str,
    multiprocessors: int,
    arithmetic: Arithmetic,
    monkeypatch: pytest.MonkeyPatch,
    emulated: Platform,
) -> None:
    """Large tiles, small tiles, and sums split over blocks."""
    monkeypatch.setenv("EMULATOR_MULTIPROCESSORS", str(multiprocessors))
    case = Case((1, 96, 9, 17), 132, (3, 3), padding=(1, 1))
    x, weight, columns, bias = arguments = operands(case, arithmetic, 0.6)
    y = convolve(emulated, case, [laid_out(x, layout), weight, columns, bias])
    assert_agrees(y, case, arguments, arithmetic.operand_eps)


@by_layout
def test_what_no_column_reads_does_not_matter(on: Platform, layout: str) -> None:
    case = Case((1, 8, 6, 19), 17, (3, 3), padding=(1, 1))
    x, columns = torch.randn(case.x), torch.arange(9, 18, dtype=torch.int32)  # channel 1 alone
    arguments = [x, torch.randn(17, 9), columns, None]
    expected = convolve(on, case, [laid_out(x, layout), *arguments[1:]])
    x[:, [0, *range(2, 8)]] = torch.nan
    assert torch.equal(convolve(on, case, [laid_out(x, layout), *arguments[1:]]), expected)


@by_layout
def test_columns_outside_the_matrix_are_zeros(on: Platform, layout: str) -> None:
    """Nobody looks at their values before the kernel does."""
    case = Case((2, 4, 6, 7), 5, (3, 3), padding=(1, 1))
    x, weight = laid_out(torch.randn(case.x), layout), torch.randn(5, 6)
    columns = torch.tensor([-(2**31), -1, 7, 36, 2**20, 2**31 - 1], dtype=torch.int32)
    y = convolve(on, case, [x, weight, columns, None])
    assert torch.equal(y, convolve(on, case, [x, weight[:, 2:3], columns[2:3], None]))
    got = gradients(on, case, torch.randn_like(y), x, weight, columns)
    assert not any(g.isnan().any() for g in got)
    assert not got[1][:, [0, 1, 3, 4, 5]].any()


def gradients(
    on: Platform, case: Case, *tensors: Tensor, asked: tuple[bool, ...] = (True,) * 3
) -> list[Tensor]:
    given = [*map(on.take, tensors), *geometry(case), case.groups, list(asked)]
    return [g.cpu() for g in on.operations.column_sparse_conv2d_backward(*given)]


def gradient_operands(
    case: Case, arithmetic: Arithmetic, density: float = 0.3
) -> tuple[Tensor, list[Tensor]]:
    """The gradient of the output, and x, weight, columns and bias."""
    x, weight, columns, _ = operands(case, arithmetic, density)
    options = {"kernel_size": case.kernel, **case.options}
    y = reference.column_sparse_conv2d(x.float(), weight.float(), columns, **options)
    return torch.randn_like(y).to(x.dtype), [x, weight, columns, torch.randn(case.channels).to(x.dtype)]


def assert_gradients_agree(
    got: list[Tensor], case: Case, arithmetic: Arithmetic, grad: Tensor, arguments: list[Tensor]
) -> None:
    options = {"kernel_size": case.kernel, **case.options}
    reference.assert_mixed_gradients_within_bound(
        got, reference.column_sparse_conv2d, arithmetic.operand_eps, grad, *arguments, **options
    )


@by_layout
@pytest.mark.parametrize("case", TRAINED, ids=str)
def test_gradients_agree_with_the_reference(
    on: Platform, case: Case, layout: str, arithmetic: Arithmetic
) -> None:
    grad, arguments = gradient_operands(case, arithmetic)
    x, weight, columns, _ = arguments
    got = gradients(on, case, laid_out(grad, layout), laid_out(x, layout), fenced(weight), columns)
    assert_gradients_agree(got, case, arithmetic, grad, arguments)


@by_density
@by_layout
def test_gradients_with_any_number_of_columns(
    on: Platform, layout: str, density: float, arithmetic: Arithmetic
) -> None:
    grad, arguments = gradient_operands(LARGE, arithmetic, density)
    x, *others, _ = arguments
    got = gradients(on, LARGE, laid_out(grad, layout), laid_out(x, layout), *others)
    assert_gradients_agree(got, LARGE, arithmetic, grad, arguments)


@pytest.mark.parametrize("asked", range(3))
def test_only_what_is_asked_for_is_computed(on: Platform, asked: int) -> None:
    grad, (x, weight, columns, _) = gradient_operands(LARGE, Arithmetic(torch.bfloat16, True, 0.0))
    every = gradients(on, LARGE, grad, x, weight, columns)
    one = gradients(on, LARGE, grad, x, weight, columns, asked=tuple(i == asked for i in range(3)))
    assert torch.equal(one[asked], every[asked])
    assert [g.numel() for i, g in enumerate(one) if i != asked] == [0, 0]


def test_gradients_without_columns_and_without_images_are_zeros(on: Platform) -> None:
    grad, (x, weight, columns, _) = gradient_operands(LARGE, Arithmetic(torch.float32, False, 0.0))
    for_x, for_weight, for_bias = gradients(on, LARGE, grad, x, weight[:, :0], columns[:, :0])
    assert torch.equal(for_x, torch.zeros_like(x))
    assert for_weight.shape == (132, 0)
    torch.testing.assert_close(for_bias, grad.sum((0, 2, 3)))
    for_x, *others = gradients(on, LARGE, grad[:0], x[:0], weight, columns)
    assert for_x.shape == (0, *x.shape[1:])
    assert not any(g.any() for g in others)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": torch.arange(6)}, "columns: expected int32"),
        ({"columns": torch.arange(5, dtype=torch.int32)}, "weight: expected size 5"),
        ({"columns": torch.zeros(2, 3, dtype=torch.int32)}, "columns: expected 1 dimensions"),
        ({"weight": torch.randn(4, 6).half()}, "weight: expected the dtype of x"),
        ({"kernel_size": [1, 1]}, "columns: expected no more than the 3"),
        ({"kernel_size": [3]}, "kernel_size: expected two"),
        ({"groups": 2}, "groups: expected a divisor"),
    ],
)
def test_wrong_arguments_are_refused(on: Platform, change: dict, message: str) -> None:
    given = {
        "x": torch.randn(1, 3, 5, 7),
        "weight": torch.randn(4, 6),
        "columns": torch.arange(6, dtype=torch.int32),
        "bias": torch.randn(4),
        "kernel_size": [3, 3],
        "stride": [1, 1],
        "padding": [0, 0],
        "dilation": [1, 1],
        "groups": 1,
    } | change
    given = {name: on.take(value) if isinstance(value, Tensor) else value for name, value in given.items()}
    with pytest.raises(ValueError, match=message):
        on.operations.column_sparse_conv2d(*given.values())
