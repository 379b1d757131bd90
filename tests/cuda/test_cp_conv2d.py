"""The fused CUDA kernel of cp_conv2d: on every arithmetic, in either layout, cut into blocks in any way."""

import pytest
import torch
from torch import Tensor

from cnnkern import reference
from tests.cuda.cases import CASES, CUTS, LAYOUTS, with_dtype
from tests.cuda.conftest import Arithmetic
from tests.cuda.platforms import Platform
from tests.ops.cases import Case, fenced, laid_out


def convolve(on: Platform, case: Case, *tensors: Tensor | None) -> Tensor:
    pairs = [list(case.stride), list(case.padding), list(case.dilation)]
    return on.operations.cp_conv2d(*map(on.take, tensors), *pairs, case.groups).cpu()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_the_reference(on: Platform, case: Case, layout: str, arithmetic: Arithmetic) -> None:
    x, *rest = with_dtype(case.cp_arguments(), arithmetic.dtype)
    y = convolve(on, case, laid_out(x, layout), *map(fenced, rest))
    reference.assert_within_mixed_bound(
        y, reference.cp_conv2d, arithmetic.operand_eps, x, *rest, **case.options
    )


@pytest.mark.parametrize("layout", [*LAYOUTS, "sliced", "sliced_channels_last"])
def test_packed_factors_and_any_layout_give_the_same_bits(
    on: Platform, layout: str, arithmetic: Arithmetic
) -> None:
    for case in CUTS[::5]:
        x, *factors, bias = with_dtype(case.cp_arguments(), arithmetic.dtype)
        expected = convolve(on, case, x, *factors, bias)
        transposed = [on.take(factor.T.contiguous().T) for factor in factors]
        packed = on.operations.cp_conv2d_pack(*transposed, case.groups)
        geometry = [*case.factor_size, *case.stride, *case.padding, *case.dilation, case.groups]
        given = on.take(laid_out(x, layout)), packed, on.take(bias), geometry
        assert torch.equal(on.operations.cp_conv2d_packed(*given).cpu(), expected), str(case)


LARGE = [
    Case((1, 24, 13, 11), 140, (3, 3), padding=(1, 1), rank=144),
    Case((2, 16, 19, 6), 70, (5, 2), stride=(2, 1), padding=(1, 0), groups=2, rank=140),
    Case((1, 8, 40, 33), 16, (3, 3), dilation=(9, 7), rank=40),
]


@pytest.mark.parametrize("multiprocessors", [1, 8, 132])
@pytest.mark.parametrize("shared_bytes", [99 << 10, 227 << 10])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_way_of_cutting_agrees(
    layout: str,
    shared_bytes: int,
    multiprocessors: int,
    arithmetic: Arithmetic,
    monkeypatch: pytest.MonkeyPatch,
    emulated: Platform,
) -> None:
    """Tiles of all shapes, ranks and channels in one block or over several."""
    monkeypatch.setenv("EMULATOR_MULTIPROCESSORS", str(multiprocessors))
    monkeypatch.setenv("EMULATOR_SHARED_BYTES", str(shared_bytes))
    for case in LARGE:
        x, *rest = with_dtype(case.cp_arguments(), arithmetic.dtype)
        y = convolve(emulated, case, laid_out(x, layout), *rest)
        reference.assert_within_mixed_bound(
            y, reference.cp_conv2d, arithmetic.operand_eps, x, *rest, **case.options
        )


def test_a_kernel_that_fits_no_block_is_refused(emulated: Platform) -> None:
    case = Case((1, 2, 60, 60), 3, (50, 50), rank=2)
    with pytest.raises(RuntimeError, match="50 x 50 input positions of one output do not fit"):
        convolve(emulated, case, *case.cp_arguments())


def test_wrong_factors_are_refused(on: Platform) -> None:
    case = Case((1, 6, 5, 7), 4, (3, 3), rank=8)
    x, c, h, w, k, bias = case.cp_arguments()
    for wrong, message in (
        ((x, c[:, :5], h, w, k, bias), "factor_c: expected 6 input channels"),
        ((x, c, h[:7], w, k, bias), "factor_h: expected size 8"),
        ((x, c, h, w, k[:, :7], bias), "factor_k: expected size 8"),
        ((x, c.half(), h, w, k, bias), "factor_c: expected the dtype of x"),
        ((x, c, h, w, k, bias[:3]), "bias: expected size 4"),
    ):
        with pytest.raises(ValueError, match=message):
            convolve(on, case, *wrong)
