"""The CUDA kernels of perforated_conv2d, its gradients and masks: on every arithmetic, in either layout."""

import pytest
import torch
from torch import Tensor

from cnnkern import reference
from tests.cuda.cases import CASES, CUTS, LAYOUTS, with_dtype
from tests.cuda.conftest import Arithmetic
from tests.cuda.platforms import Platform
from tests.ops.cases import Case, fenced, laid_out
from tests.ops.masks import KINDS, mask_of

INTERPOLATIONS = ("nearest", "none")
COMPUTED = [case for case in CASES[1::3] if case.x[0]]
LARGE = Case((3, 40, 9, 17), 132, (3, 2), padding=(1, 1), groups=2)
TRAINED = [*(case for case in CASES[2::7] if case.x[0]), Case((3, 8, 11, 10), 16, (3, 3), stride=(2, 2))]
by_layout = pytest.mark.parametrize("layout", LAYOUTS)


def geometry(case: Case) -> list[list[int]]:
    return [list(pair) for pair in (case.stride, case.padding, case.dilation)]


def convolve(
    on: Platform, case: Case, arguments: list[Tensor | None], interpolation: str = "nearest"
) -> Tensor:
    """`arguments` are x, weight, mask and bias."""
    given = map(on.take, arguments)
    nearest = interpolation == "nearest"
    return on.operations.perforated_conv2d(*given, *geometry(case), case.groups, nearest).cpu()


def assert_agrees(y: Tensor, case: Case, eps: float, arguments: list[Tensor | None], **options: str) -> None:
    options = {**case.options, **options}
    reference.assert_within_mixed_bound(y, reference.perforated_conv2d, eps, *arguments, **options)


def operands(case: Case, kind: str, arithmetic: Arithmetic) -> list[Tensor | None]:
    """x, weight, mask and bias."""
    x, weight, bias = with_dtype(case.conv2d_arguments(), arithmetic.dtype)
    return [x, weight, mask_of(case, kind), bias]


@pytest.mark.parametrize(("kind", "interpolation"), [("half", "nearest"), ("each image", "none")])
@by_layout
@pytest.mark.parametrize("case", COMPUTED, ids=str)
def test_agrees_with_the_reference(
    on: Platform, case: Case, layout: str, kind: str, interpolation: str, arithmetic: Arithmetic
) -> None:
    x, weight, mask, bias = arguments = operands(case, kind, arithmetic)
    given = [laid_out(x, layout), fenced(weight), fenced(mask, True), fenced(bias)]
    y = convolve(on, case, given, interpolation)
    assert_agrees(y, case, arithmetic.operand_eps, arguments, interpolation=interpolation)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@by_layout
@pytest.mark.parametrize("kind", KINDS)
def test_any_outputs_may_be_kept(
    on: Platform, kind: str, layout: str, interpolation: str, arithmetic: Arithmetic
) -> None:
    for case in (LARGE, Case((4, 8, 5, 6), 8, (3, 3), padding=(1, 1))):
        x, weight, mask, bias = arguments = operands(case, kind, arithmetic)
        y = convolve(on, case, [laid_out(x, layout), weight, mask, bias], interpolation)
        assert_agrees(y, case, arithmetic.operand_eps, arguments, interpolation=interpolation)


@pytest.mark.parametrize("layout", [*LAYOUTS, "sliced", "sliced_channels_last"])
def test_packed_weights_and_any_layout_give_the_same_bits(
    on: Platform, layout: str, arithmetic: Arithmetic
) -> None:
    for case, kind in ((LARGE, "each image"), *((case, "half") for case in CUTS[1::6])):
        x, weight, mask, bias = operands(case, kind, arithmetic)
        expected = convolve(on, case, [x, weight, mask, bias])
        arranged = on.operations.perforated_conv2d_arrange(on.take(mask), True)
        packed = on.operations.conv2d_pack(on.take(weight), case.groups)
        numbers = [*case.weight_size, *case.stride, *case.padding, *case.dilation, case.groups]
        given = on.take(laid_out(x, layout)), packed, on.take(bias), numbers, arranged
        assert torch.equal(on.operations.perforated_conv2d_packed(*given).cpu(), expected), str(case)


@pytest.mark.parametrize("kind", ["half", "each image"])
@pytest.mark.parametrize("multiprocessors", [1, 3, 1000])
@by_layout
def test_every_way_of_cutting_agrees(
    layout: str,
    multiprocessors: int,
    kind: str,
    arithmetic: Arithmetic,
    monkeypatch: pytest.MonkeyPatch,
    emulated: Platform,
) -> None:
    """Large tiles, small tiles, and sums split over blocks."""
    monkeypatch.setenv("EMULATOR_MULTIPROCESSORS", str(multiprocessors))
    case = Case((2, 40, 5, 13), 132, (3, 3), padding=(1, 1))
    x, weight, mask, bias = arguments = operands(case, kind, arithmetic)
    for interpolation in INTERPOLATIONS:
        y = convolve(emulated, case, [laid_out(x, layout), weight, mask, bias], interpolation)
        assert_agrees(y, case, arithmetic.operand_eps, arguments, interpolation=interpolation)


@by_layout
def test_whatever_is_given_for_arranged_masks_nothing_else_is_touched(on: Platform, layout: str) -> None:
    case = Case((2, 5, 4, 7), 6, (3, 3), padding=(1, 1))
    x, weight, bias = case.conv2d_arguments()
    packed = on.operations.conv2d_pack(on.take(weight), 1)
    numbers = [*case.weight_size, *case.stride, *case.padding, *case.dilation, 1]
    for size in ((2, 4, 7), (2, 2, 4, 7)):
        for arranged in (
            torch.randint(-(2**31), 2**31 - 1, size, dtype=torch.int32),
            torch.randint(-40, 40, size, dtype=torch.int32),
            torch.full(size, 2**31 - 1, dtype=torch.int32),
        ):
            given = on.take(laid_out(x, layout)), packed, on.take(bias), numbers, on.take(arranged)
            assert on.operations.perforated_conv2d_packed(*given).shape == (2, 6, 4, 7)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("size", [(1, 1), (1, 23), (23, 1), (17, 29), (40, 7)])
def test_sources_are_the_nearest_kept_positions(on: Platform, size: tuple[int, int], share: float) -> None:
    mask = torch.rand(3, *size) < share
    mask[:, size[0] - 1, size[1] // 2] = True
    sources = on.operations.perforated_conv2d_sources(on.take(mask), True).cpu()
    assert torch.equal(sources.long(), reference.nearest_kept(mask))
    alone = on.operations.perforated_conv2d_sources(on.take(mask[0]), True).cpu()
    assert torch.equal(alone, sources[0])
    own = torch.arange(mask[0].numel(), dtype=torch.int32).view(size)
    unshown = on.operations.perforated_conv2d_sources(on.take(mask), False).cpu()
    assert torch.equal(unshown, torch.where(mask, own, -1).int())


@pytest.mark.parametrize("nearest", [True, False])
def test_arranged_masks_list_each_output_once(on: Platform, nearest: bool) -> None:
    """Those that show a kept output together, it first and the others ascending, and zeros at the end."""
    mask = torch.rand(3, 17, 29) < torch.tensor([0.5, 0.02, 0.98])[:, None, None]
    mask[:, 5, 7] = True
    arranged = on.operations.perforated_conv2d_arrange(on.take(mask), nearest).cpu().flatten(2)
    sources = torch.where(mask, 0, -1) if not nearest else reference.nearest_kept(mask)
    own = torch.arange(17 * 29).view(17, 29)
    sources = torch.where(mask, own, sources).flatten(1)
    for (positions, begins), source in zip(arranged.tolist(), sources, strict=True):
        kept = (source == own.flatten()).nonzero().flatten().tolist()
        shown = [[k, *(p for p in (source == k).nonzero().flatten().tolist() if p != k)] for k in kept]
        zeros = (~(source < 0).nonzero().flatten()).tolist()
        assert positions == [p for group in shown for p in group] + zeros
        expected = torch.tensor([0, *map(len, shown)]).cumsum(0)[:-1].tolist()
        assert begins == expected + [~len(kept)] * (17 * 29 - len(kept))


def gradients(
    on: Platform, case: Case, *tensors: Tensor, nearest: bool = True, asked: tuple[bool, ...] = (True,) * 3
) -> list[Tensor]:
    """`tensors` are grad, x, weight and mask."""
    given = [*map(on.take, tensors), *geometry(case), case.groups, nearest, list(asked)]
    return [g.cpu() for g in on.operations.perforated_conv2d_backward(*given)]


@pytest.mark.parametrize(
    ("kind", "interpolation"), [("half", "none"), ("few", "nearest"), ("each image", "nearest")]
)
@by_layout
def test_gradients_agree_with_the_reference(
    on: Platform, layout: str, kind: str, interpolation: str, arithmetic: Arithmetic
) -> None:
    for case in TRAINED:
        x, weight, mask, _ = operands(case, kind, arithmetic)
        grad = torch.randn_like(reference.conv2d(x.float(), weight.float(), **case.options)).to(x.dtype)
        bias = torch.randn(case.channels).to(x.dtype)
        given = [laid_out(grad, layout), laid_out(x, layout), fenced(weight), mask]
        got = gradients(on, case, *given, nearest=interpolation == "nearest")
        options = {**case.options, "interpolation": interpolation}
        arguments = [arithmetic.operand_eps, grad, x, weight, mask, bias]
        reference.assert_mixed_gradients_within_bound(got, reference.perforated_conv2d, *arguments, **options)


@pytest.mark.parametrize("multiprocessors", [1, 1000])
@pytest.mark.parametrize("kind", ["half", "few", "each image"])
def test_gradients_agree_however_many_blocks_share_a_sum(
    kind: str,
    multiprocessors: int,
    arithmetic: Arithmetic,
    monkeypatch: pytest.MonkeyPatch,
    emulated: Platform,
) -> None:
    """Even where there are fewer kept outputs than parts of the sum."""
    monkeypatch.setenv("EMULATOR_MULTIPROCESSORS", str(multiprocessors))
    case = Case((3, 8, 19, 21), 10, (3, 3), stride=(1, 2), padding=(1, 0), groups=2)
    x, weight, mask, bias = operands(case, kind, arithmetic)
    grad = torch.randn(3, 10, 19, 10).to(x.dtype)
    got = gradients(emulated, case, grad, x, weight, mask)
    arguments = [arithmetic.operand_eps, grad, x, weight, mask, bias]
    reference.assert_mixed_gradients_within_bound(
        got, reference.perforated_conv2d, *arguments, **case.options
    )


@pytest.mark.parametrize("asked", range(3))
def test_only_what_is_asked_for_is_computed(on: Platform, asked: int) -> None:
    case = TRAINED[-1]
    x, weight, mask, _ = operands(case, "half", Arithmetic(torch.bfloat16, True, 0.0))
    given = torch.randn(3, 16, 5, 4, dtype=x.dtype), x, weight, mask
    every = gradients(on, case, *given)
    one = gradients(on, case, *given, asked=tuple(i == asked for i in range(3)))
    assert torch.equal(one[asked], every[asked])
    assert [g.numel() for i, g in enumerate(one) if i != asked] == [0, 0]


def test_an_empty_batch_gives_zeros(on: Platform) -> None:
    case = Case((0, 3, 5, 7), 4, (3, 3))
    x, weight, bias = case.conv2d_arguments()
    for mask in (torch.ones(3, 5).bool(), torch.ones(0, 3, 5).bool()):
        assert convolve(on, case, [x, weight, mask, bias]).shape == (0, 4, 3, 5)
        for_x, *others = gradients(on, case, torch.randn(0, 4, 3, 5), x, weight, mask)
        assert for_x.shape == x.shape
        assert not any(g.any() for g in others)


def test_a_mask_that_keeps_nothing_gives_zeros(on: Platform) -> None:
    case = Case((2, 3, 5, 7), 4, (3, 3))
    x, weight, bias = case.conv2d_arguments()
    for size in ((3, 5), (2, 3, 5)):
        mask = torch.zeros(size).bool()
        assert not convolve(on, case, [x, weight, mask, bias]).any()
        assert not any(g.any() for g in gradients(on, case, torch.randn(2, 4, 3, 5), x, weight, mask))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": torch.ones(3, 5)}, "mask: expected bool"),
        ({"mask": torch.ones(4, 5).bool()}, "arranged: expected size 3"),
        ({"mask": torch.ones(2, 3, 5).bool()}, "arranged: expected size 1"),
        ({"mask": torch.ones(5).bool()}, "mask: expected 2 or 3 dimensions"),
        ({"weight": torch.randn(4, 2, 3, 3)}, "weight: expected size 3"),
        ({"bias": torch.randn(5)}, "bias: expected size 4"),
    ],
)
def test_wrong_arguments_are_refused(on: Platform, change: dict, message: str) -> None:
    given = {
        "x": torch.randn(1, 3, 5, 7),
        "weight": torch.randn(4, 3, 3, 3),
        "mask": torch.ones(3, 5).bool(),
        "bias": torch.randn(4),
        "stride": [1, 1],
        "padding": [0, 0],
        "dilation": [1, 1],
        "groups": 1,
        "nearest": True,
    } | change
    given = {name: on.take(value) if isinstance(value, Tensor) else value for name, value in given.items()}
    with pytest.raises(ValueError, match=message):
        on.operations.perforated_conv2d(*given.values())
