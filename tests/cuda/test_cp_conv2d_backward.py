"""The CUDA kernels of cp_conv2d_backward: on every arithmetic, in either layout, gradients as asked for."""

import pytest
import torch
from torch import Tensor

from cnnkern import reference
from tests.cuda.cases import CUTS, LAYOUTS, with_dtype
from tests.cuda.conftest import Arithmetic
from tests.cuda.platforms import Platform
from tests.ops.cases import EDGES, GEOMETRY, GROUPS, Case, fenced, laid_out

STRIDED = [
    Case((1, 16, 9, 7), 16, (3, 3), stride=(2, 3), dilation=(2, 2), padding=(2, 2), groups=2, rank=6),
    Case((1, 3, 5, 6), 4, (3, 2), padding=(4, 3), rank=3),  # padding that the kernel does not reach
    Case((2, 8, 4, 3), 17, (2, 2), stride=(3, 2), padding=(5, 4), rank=9),
    Case((1, 2, 11, 13), 3, (7, 5), stride=(2, 1), dilation=(1, 3), padding=(1, 2), rank=4),
    Case((1, 2, 17, 16), 3, (2, 2), dilation=(9, 11), rank=4),  # more between the taps than in them
    Case((1, 4, 14, 3), 5, (1, 1), stride=(4, 2), rank=33),  # inputs that no output reads
]
TRAINED = [*CUTS[2::7], GEOMETRY[0], GEOMETRY[-1], *GROUPS[::6], EDGES[0], EDGES[2], *STRIDED]


def gradients(
    on: Platform, case: Case, *tensors: Tensor, asked: tuple[bool, ...] = (True,) * 6
) -> list[Tensor]:
    pairs = [list(case.stride), list(case.padding), list(case.dilation)]
    given = map(on.take, tensors)
    return [g.cpu() for g in on.operations.cp_conv2d_backward(*given, *pairs, case.groups, list(asked))]


def operands(case: Case, dtype: torch.dtype) -> list[Tensor]:
    """grad, x, the factors and bias."""
    x, *factors, _ = case.cp_arguments()
    grad = torch.randn_like(reference.cp_conv2d(x, *factors, **case.options))
    return with_dtype([grad, x, *factors, torch.randn(case.channels)], dtype)


def check(on: Platform, case: Case, layout: str, arithmetic: Arithmetic) -> None:
    grad, x, *factors, bias = operands(case, arithmetic.dtype)
    got = gradients(on, case, laid_out(grad, layout), laid_out(x, layout), *map(fenced, factors))
    reference.assert_mixed_gradients_within_bound(
        got, reference.cp_conv2d, arithmetic.operand_eps, grad, x, *factors, bias, **case.options
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", TRAINED, ids=str)
def test_agree_with_the_reference(on: Platform, case: Case, layout: str, arithmetic: Arithmetic) -> None:
    check(on, case, layout, arithmetic)


@pytest.mark.parametrize("multiprocessors", [1, 132])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_way_of_cutting_agrees(
    layout: str,
    multiprocessors: int,
    arithmetic: Arithmetic,
    monkeypatch: pytest.MonkeyPatch,
    emulated: Platform,
) -> None:
    """Several tiles, parts of channels and tiles of ranks, by one block or by many."""
    monkeypatch.setenv("EMULATOR_MULTIPROCESSORS", str(multiprocessors))
    check(emulated, Case((2, 8, 12, 11), 260, (3, 2), padding=(1, 1), rank=66), layout, arithmetic)
    monkeypatch.setenv("EMULATOR_SHARED_BYTES", str(99 << 10))
    small = Case((1, 136, 9, 7), 6, (2, 3), stride=(2, 1), groups=2, rank=8)
    check(emulated, small, layout, arithmetic)


@pytest.mark.parametrize("asked", range(6))
def test_only_what_is_asked_for_is_computed(on: Platform, asked: int) -> None:
    case = STRIDED[0]
    tensors = operands(case, torch.bfloat16)[:6]
    every = gradients(on, case, *tensors)
    one = gradients(on, case, *tensors, asked=tuple(i == asked for i in range(6)))
    assert torch.equal(one[asked], every[asked])
    assert [g.numel() for i, g in enumerate(one) if i != asked] == [0] * 5


def test_bits_depend_neither_on_the_schedule_nor_on_alignment(
    monkeypatch: pytest.MonkeyPatch, emulated: Platform
) -> None:
    """Chunks of channels that lie in one piece are copied, others put together."""
    case = Case((2, 16, 9, 12), 24, (3, 3), padding=(1, 1), rank=70)
    grad, x, *factors, _ = operands(case, torch.float16)
    aligned = [image.contiguous(memory_format=torch.channels_last) for image in (grad, x)]
    expected = gradients(emulated, case, *aligned, *factors)
    for seed in ("1", "2"):
        monkeypatch.setenv("EMULATOR_SEED", seed)
        for images in (aligned, map(fenced, aligned)):
            assert all(map(torch.equal, gradients(emulated, case, *images, *factors), expected))


def test_what_no_output_reads_is_in_no_sum(monkeypatch: pytest.MonkeyPatch, emulated: Platform) -> None:
    """Tiles reach over the last row and column of the outputs, into inputs that may be anything."""
    monkeypatch.setenv("EMULATOR_MULTIPROCESSORS", "1")
    case = Case((1, 8, 10, 10), 8, (2, 2), stride=(3, 3), rank=8)
    grad, x, *factors, _ = operands(case, torch.float32)
    x[..., 2::3, :] = x[..., 9, :] = x[..., 2::3] = x[..., 9] = torch.nan
    asked = (True, False, True, True, True, True)
    assert not any(g.isnan().any() for g in gradients(emulated, case, grad, x, *factors, asked=asked))


def test_a_kernel_that_fits_no_block_is_refused(emulated: Platform) -> None:
    case = Case((1, 2, 60, 60), 3, (50, 50), rank=2)
    x, *factors, _ = case.cp_arguments()
    with pytest.raises(RuntimeError, match="cp_conv2d_backward: the 50 x 50 input positions"):
        gradients(emulated, case, torch.randn(1, 3, 11, 11), x, *factors)


def test_an_empty_batch_gives_zeros(on: Platform) -> None:
    case = Case((0, 3, 5, 7), 4, (3, 3), rank=5)
    x, *factors, _ = case.cp_arguments()
    for_x, *others = gradients(on, case, torch.randn(0, 4, 3, 5), x, *factors)
    assert for_x.shape == x.shape
    assert not any(g.any() for g in others)
