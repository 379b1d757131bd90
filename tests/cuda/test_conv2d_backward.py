"""The CUDA kernels of conv2d_backward: on every arithmetic, in either layout, each gradient if asked for."""

import pytest
import torch
from torch import Tensor

from cnnkern import reference
from tests.cuda.cases import CASES, LAYOUTS, with_dtype
from tests.cuda.conftest import Arithmetic
from tests.cuda.platforms import Platform
from tests.ops.cases import Case, fenced, laid_out

TRAINED = [case for case in CASES[::3] if case.x[0]]
STRIDED = [
    Case((2, 8, 11, 10), 16, (3, 3), stride=(2, 2), padding=(1, 1)),
    Case((1, 16, 13, 11), 16, (3, 3), stride=(2, 3), dilation=(2, 2), padding=(2, 2), groups=2),
    Case((1, 3, 5, 6), 4, (3, 2), padding=(4, 3)),  # padding that the kernel does not reach
    Case((2, 8, 4, 3), 17, (2, 2), stride=(3, 2), padding=(5, 4)),
]


def gradients(
    on: Platform, case: Case, *tensors: Tensor, asked: tuple[bool, ...] = (True,) * 3
) -> list[Tensor]:
    pairs = [list(case.stride), list(case.padding), list(case.dilation)]
    given = map(on.take, tensors)
    return [g.cpu() for g in on.operations.conv2d_backward(*given, *pairs, case.groups, list(asked))]


def operands(case: Case, dtype: torch.dtype) -> list[Tensor]:
    """grad, x, weight and bias."""
    x, weight, _ = case.conv2d_arguments()
    grad = torch.randn_like(reference.conv2d(x, weight, **case.options))
    return with_dtype([grad, x, weight, torch.randn(case.channels)], dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", [*TRAINED, *STRIDED], ids=str)
def test_agrees_with_the_reference(on: Platform, case: Case, layout: str, arithmetic: Arithmetic) -> None:
    grad, x, weight, bias = operands(case, arithmetic.dtype)
    got = gradients(on, case, laid_out(grad, layout), laid_out(x, layout), fenced(weight))
    reference.assert_mixed_gradients_within_bound(
        got, reference.conv2d, arithmetic.operand_eps, grad, x, weight, bias, **case.options
    )


@pytest.mark.parametrize("multiprocessors", [1, 1000])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_way_of_cutting_agrees(
    layout: str,
    multiprocessors: int,
    arithmetic: Arithmetic,
    monkeypatch: pytest.MonkeyPatch,
    emulated: Platform,
) -> None:
    monkeypatch.setenv("EMULATOR_MULTIPROCESSORS", str(multiprocessors))
    case = Case((2, 72, 11, 13), 132, (3, 2), stride=(2, 1), padding=(1, 1))
    grad, x, weight, bias = operands(case, arithmetic.dtype)
    got = gradients(emulated, case, laid_out(grad, layout), laid_out(x, layout), weight)
    reference.assert_mixed_gradients_within_bound(
        got, reference.conv2d, arithmetic.operand_eps, grad, x, weight, bias, **case.options
    )


@pytest.mark.parametrize("asked", range(3))
def test_only_what_is_asked_for_is_computed(on: Platform, asked: int) -> None:
    case = STRIDED[1]
    tensors = operands(case, torch.bfloat16)[:3]
    every = gradients(on, case, *tensors)
    one = gradients(on, case, *tensors, asked=tuple(i == asked for i in range(3)))
    assert torch.equal(one[asked], every[asked])
    assert [g.numel() for i, g in enumerate(one) if i != asked] == [0, 0]


def test_an_empty_batch_gives_zeros(on: Platform) -> None:
    case = Case((0, 3, 5, 7), 4, (3, 3))
    x, weight, _ = case.conv2d_arguments()
    for_x, *others = gradients(on, case, torch.randn(0, 4, 3, 5), x, weight)
    assert for_x.shape == x.shape
    assert not any(g.any() for g in others)
