"""ops.perforated_conv2d computes what its mask keeps, and shows it where the mask drops."""

import pytest
import torch
from torch import Tensor

from bench.timing import thread_count
from cnnkern import ops, reference
from tests.ops.cases import CASES, LAYOUTS, SHARED, TILES, Case, fenced, laid_out
from tests.ops.masks import KINDS, mask_of

INTERPOLATIONS = ["nearest", "none"]
# as many positions as make several blocks, and images that share one
BLOCKS = [
    Case((1, 5, 61, 53), 18, (3, 3), padding=(1, 1)),
    Case((2, 3, 67, 71), 65, (5, 5), stride=(1, 2), padding=(2, 2)),
    Case((9, 40, 7, 7), 80, (3, 3), padding=(1, 1)),
    Case((1, 300, 5, 5), 144, (3, 3), padding=(1, 1)),  # whose channels the workers share
    Case((3, 34, 21, 19), 68, (3, 2), padding=(1, 1), groups=2),
    Case((2, 37, 13, 17), 40, (1, 1), stride=(1, 2)),  # one pixel for each output
]
# images larger than level 2, whose outputs show such of other bands and other workers
BANDS = [
    Case((1, 70, 61, 83), 20, (3, 3), padding=(1, 1)),
    Case((2, 48, 90, 70), 18, (3, 2), stride=(2, 1), dilation=(1, 2), groups=2),
]
EVERY = CASES + BLOCKS
# every case with two kinds of mask, and every kind with many cases
MASKED = [(case, KINDS[(i + j) % len(KINDS)]) for i, case in enumerate(EVERY) for j in (0, 3)]


def packed_conv2d(case: Case, x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor, nearest: bool) -> Tensor:
    packed = fenced(torch.ops.cnnkern.conv2d_pack(weight, case.groups))
    arranged = torch.ops.cnnkern.perforated_conv2d_arrange(mask, nearest)
    geometry = [*case.weight_size, *case.stride, *case.padding, *case.dilation, case.groups]
    return torch.ops.cnnkern.perforated_conv2d_packed(x, packed, bias, geometry, arranged)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(("case", "kind"), MASKED, ids=str)
def test_agrees_with_the_reference(case: Case, layout: str, kind: str, isa: str) -> None:
    x, weight, bias = case.conv2d_arguments()
    mask = mask_of(case, kind)
    for interpolation in INTERPOLATIONS:
        options = {**case.options, "interpolation": interpolation}
        y = ops.perforated_conv2d(laid_out(x, layout), fenced(weight), mask, fenced(bias), **options)
        reference.assert_within_bound(y, reference.perforated_conv2d, x, weight, mask, bias, **options)


@pytest.mark.parametrize("kind", ["few", "one", "bands", "each image"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("case", BANDS, ids=str)
def test_outputs_show_kept_ones_however_far_away(case: Case, layout: str, kind: str) -> None:
    x, weight, bias = case.conv2d_arguments()
    mask = mask_of(case, kind)
    mask[..., mask.shape[-2] // 2, 0] = True
    results = []
    for threads in (1, 2, 3):
        with thread_count(threads):
            results.append(ops.perforated_conv2d(laid_out(x, layout), weight, mask, bias, **case.options))
    reference.assert_within_bound(
        results[0], reference.perforated_conv2d, x, weight, mask, bias, **case.options
    )
    assert all(torch.equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(("case", "kind"), MASKED[::2], ids=str)
def test_agrees_with_the_reference_in_float64(case: Case, layout: str, kind: str) -> None:
    x, weight, bias = case.conv2d_arguments(torch.float64)
    mask = mask_of(case, kind)
    y = ops.perforated_conv2d(laid_out(x, layout), fenced(weight), mask, fenced(bias), **case.options)
    reference.assert_within_bound(y, reference.perforated_conv2d, x, weight, mask, bias, **case.options)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("case", EVERY[::4], ids=str)
def test_packed_weights_and_sources_give_the_same(
    case: Case, layout: str, interpolation: str, isa: str
) -> None:
    x, weight, bias = case.conv2d_arguments()
    x, mask = laid_out(x, layout), mask_of(case, "half")
    y = packed_conv2d(case, x, weight, mask, bias, interpolation == "nearest")
    expected = ops.perforated_conv2d(x, weight, mask, bias, **case.options, interpolation=interpolation)
    assert torch.equal(y, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mask_layout", ["contiguous", "transposed", "sliced"])
def test_every_tensor_may_lie_in_any_memory_format(layout: str, mask_layout: str, isa: str) -> None:
    case = Case((2, 6, 7, 9), 34, (3, 2), padding=(1, 0), groups=2)
    x, weight, bias = case.conv2d_arguments()
    mask = mask_of(case, "each image")
    lying = {
        "contiguous": mask,
        "transposed": mask.mT.contiguous().mT,
        "sliced": torch.stack([mask, ~mask], 3)[..., 0],
    }[mask_layout]
    y = ops.perforated_conv2d(laid_out(x, layout), laid_out(weight, layout), lying, bias, **case.options)
    reference.assert_within_bound(y, reference.perforated_conv2d, x, weight, mask, bias, **case.options)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("case", TILES, ids=str)
def test_a_mask_that_keeps_all_is_the_dense_convolution(case: Case, layout: str, isa: str) -> None:
    x, weight, bias = case.conv2d_arguments()
    x, mask = laid_out(x, layout), mask_of(case, "all")
    y = ops.perforated_conv2d(x, weight, mask, bias, **case.options)
    assert torch.equal(y, ops.conv2d(x, weight, bias, **case.options))


def test_one_kept_output_is_shown_everywhere(isa: str) -> None:
    case = Case((2, 5, 17, 13), 33, (3, 3), padding=(1, 1))
    x, weight, bias = case.conv2d_arguments()
    y = ops.perforated_conv2d(x, weight, mask_of(case, "one"), bias, **case.options)
    assert torch.equal(y, y[:, :, :1, :1].expand_as(y))


@pytest.mark.parametrize("shape", [(5, 6), (2, 5, 6)], ids=str)
def test_a_mask_that_keeps_none_is_refused(shape: tuple[int, ...]) -> None:
    x, weight, _ = Case((2, 3, 5, 6), 4, (1, 1)).conv2d_arguments()
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[:-1] = len(shape) == 3  # all of the first image, and still none of the second
    with pytest.raises(ValueError, match="mask: expected at least one kept position, got none"):
        ops.perforated_conv2d(x, weight, mask)


@pytest.mark.parametrize("kind", ["half", "each image", "bands"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("case", SHARED + BLOCKS, ids=str)
def test_bits_do_not_depend_on_the_threads(case: Case, layout: str, kind: str, isa: str) -> None:
    x, weight, bias = case.conv2d_arguments()
    x, mask = laid_out(x, layout), mask_of(case, kind)
    results = []
    for threads in (1, 2, 3, 7, 2):
        with thread_count(threads):
            results.append(ops.perforated_conv2d(x, weight, mask, bias, **case.options))
    assert all(torch.equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ([[1, 0, 0, 0, 1]], [[0, 0, 0, 4, 4]]),
        ([[1], [0], [1]], [[0], [0], [2]]),  # the upper one
        ([[0, 1, 0], [1, 0, 1], [0, 1, 0]], [[1, 1, 1], [3, 1, 5], [3, 7, 5]]),
        ([[1, 0, 0], [0, 0, 0], [0, 0, 1]], [[0, 0, 0], [0, 0, 8], [0, 8, 8]]),
    ],
)
def test_of_several_nearest_the_first_row_then_the_first_column_is_shown(
    mask: list[list[int]], expected: list[list[int]]
) -> None:
    kept = torch.tensor(mask).bool()
    assert torch.ops.cnnkern.perforated_conv2d_sources(kept, True).tolist() == expected
    assert reference.nearest_kept(kept).tolist() == expected


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("size", [(1, 1), (1, 23), (23, 1), (17, 29), (40, 7)])
def test_sources_are_the_nearest_kept_positions(size: tuple[int, int], share: float) -> None:
    mask = torch.rand(5, *size) < share
    mask[:, size[0] - 1, size[1] // 2] = True
    sources = torch.ops.cnnkern.perforated_conv2d_sources(mask, True)
    assert torch.equal(sources.long(), reference.nearest_kept(mask))
    assert torch.equal(torch.ops.cnnkern.perforated_conv2d_sources(mask[0], True), sources[0])
    own = torch.arange(mask[0].numel(), dtype=torch.int32).view(size)
    assert torch.equal(
        torch.ops.cnnkern.perforated_conv2d_sources(mask, False), torch.where(mask, own, -1).int()
    )
