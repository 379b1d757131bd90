"""The gradients of ops.cp_conv2d: those of the convolution with the weight that the factors stand for."""

import pytest
import torch

from cnnkern import ops, reference
from tests.ops.cases import CASES, SHARED, Case, fenced, laid_out

backward = torch.ops.cnnkern.cp_conv2d_backward
STRIPS = [
    Case((7, 40, 9, 10), 33, (3, 3), padding=(1, 1), rank=50),  # several images a strip
    Case((5, 17, 8, 9), 19, (3, 2), stride=(2, 1), padding=(1, 0), rank=18),
    Case((1, 5, 70, 61), 4, (1, 1), stride=(3, 2), rank=5),  # rows between strips that no output reads
    Case((1, 7, 67, 31), 6, (5, 3), stride=(2, 1), padding=(7, 1), dilation=(2, 1), rank=9),  # bands
    Case((2, 64, 20, 21), 32, (3, 3), padding=(1, 1), groups=2, rank=64),  # factors in place
]
TRAINED = [case for case in CASES if case.x[0] > 0] + STRIPS


def gradients(case: Case, grad: torch.Tensor, x: torch.Tensor, factors: list, mask: list[bool]) -> list:
    return backward(grad, x, *factors, case.stride, case.padding, case.dilation, case.groups, mask)


def random_grad(case: Case, arguments: list) -> torch.Tensor:
    return torch.randn_like(reference.cp_conv2d(*arguments, **case.options))


def check_against_the_reference(case: Case, layout: str, dtype: torch.dtype) -> None:
    x, *factors, bias = case.cp_arguments(dtype)
    grad = random_grad(case, [x, *factors, bias])
    mask = [True] * 5 + [bias is not None]
    got = gradients(case, laid_out(grad, layout), laid_out(x, layout), [fenced(f) for f in factors], mask)
    got = [g for g, asked in zip(got, mask, strict=True) if asked]
    reference.assert_gradients_within_bound(got, reference.cp_conv2d, grad, x, *factors, bias, **case.options)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("case", TRAINED, ids=str)
def test_agree_with_the_reference(case: Case, layout: str, isa: str) -> None:
    check_against_the_reference(case, layout, torch.float32)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("case", TRAINED, ids=str)
def test_agree_with_the_reference_in_float64(case: Case, layout: str) -> None:
    check_against_the_reference(case, layout, torch.float64)


@pytest.mark.parametrize("layout", ["sliced", "sliced_channels_last", "contiguous"])
def test_the_layout_of_the_gradient_is_free(layout: str, isa: str) -> None:
    case = Case((2, 6, 7, 9), 10, (3, 3), padding=(1, 1), rank=5)
    x, *factors, bias = case.cp_arguments()
    x = x.contiguous(memory_format=torch.channels_last)
    grad = random_grad(case, [x, *factors, bias])
    got = gradients(case, laid_out(grad, layout), x, factors, [True] * 6)
    reference.assert_gradients_within_bound(got, reference.cp_conv2d, grad, x, *factors, bias, **case.options)
    assert got[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("asked", range(6))
def test_only_what_is_asked_for_is_computed(asked: int, isa: str) -> None:
    case = Case((2, 6, 7, 9), 10, (3, 5), padding=(1, 2), groups=2, rank=8)
    x, *factors, bias = case.cp_arguments()
    grad = random_grad(case, [x, *factors, bias])
    every = gradients(case, grad, x, factors, [True] * 6)
    one = gradients(case, grad, x, factors, [i == asked for i in range(6)])
    assert torch.equal(one[asked], every[asked])
    assert [g.numel() for i, g in enumerate(one) if i != asked] == [0] * 5


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("case", SHARED + STRIPS, ids=str)
def test_bits_do_not_depend_on_the_threads(case: Case, layout: str, isa: str) -> None:
    x, *factors, bias = case.cp_arguments()
    grad, x = laid_out(random_grad(case, [x, *factors, bias]), layout), laid_out(x, layout)
    results = []
    before = torch.get_num_threads()
    for threads in (1, 2, 3, 2):
        torch.set_num_threads(threads)
        results.append(gradients(case, grad, x, factors, [True] * 6))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_an_empty_batch_gives_zeros() -> None:
    case = Case((0, 3, 5, 7), 4, (3, 3), rank=5)
    x, *factors, _ = case.cp_arguments()
    got = gradients(case, torch.randn(0, 4, 3, 5), x, factors, [True] * 6)
    assert got[0].shape == x.shape
    assert not any(g.any() for g in got[1:])


@pytest.mark.parametrize(
    "case",
    [
        Case((2, 4, 5, 6), 6, (3, 3), padding=(1, 1), rank=3),
        Case((1, 4, 7, 8), 6, (3, 2), stride=(2, 1), dilation=(1, 2), groups=2, rank=4),
    ],
    ids=str,
)
def test_gradcheck_in_float64(case: Case) -> None:
    arguments = [a.requires_grad_() for a in case.cp_arguments(torch.float64)]
    assert torch.autograd.gradcheck(lambda *a: ops.cp_conv2d(*a, **case.options), arguments)


def test_there_is_no_second_derivative() -> None:
    arguments = [a.requires_grad_() for a in Case((1, 3, 5, 6), 4, (3, 3), rank=3).cp_arguments()]
    (first,) = torch.autograd.grad(ops.cp_conv2d(*arguments).sum(), arguments[1], create_graph=True)
    with pytest.raises(NotImplementedError, match="second"):
        first.sum().backward()
