"""The gradients of ops.conv2d, each only where it is asked for."""

import importlib

import pytest
import torch
from torch import Tensor

from cnnkern import ops, reference
from tests.ops.cases import CASES, SHARED, Case, fenced, laid_out

backward = torch.ops.cnnkern.conv2d_backward
ALL = [True, True, True]
# what the gradients are cut by, and the other cases do not meet
STRIDES = [
    *(Case((1, 3, 19, 23), 5, (3, 5), stride=(s, s), padding=(1, 2)) for s in (2, 3, 4, 5)),
    Case((2, 3, 17, 19), 18, (4, 5), stride=(4, 6), dilation=(2, 4), padding=(3, 5)),
    Case((1, 4, 13, 11), 6, (3, 3), stride=(2, 2), dilation=(2, 2), padding=(2, 2), groups=2),
    Case((1, 17, 9, 8), 3, (1, 1), stride=(3, 2), padding=(1, 2)),
    Case((1, 3, 5, 6), 4, (3, 2), padding=(4, 3)),  # padding that the kernel does not reach
    Case((2, 2, 4, 3), 17, (2, 2), stride=(3, 2), padding=(5, 4)),
]
GROUPS = [
    Case((2, 36, 6, 9), 72, (3, 3), padding=(1, 1), groups=12),
    Case((1, 40, 7, 20), 10, (3, 3), stride=(2, 1), padding=(1, 1), groups=10),
    Case((1, 6, 9, 8), 18, (3, 3), stride=(2, 3), padding=(1, 1), groups=6),
    Case((1, 16, 9, 8), 48, (3, 2), padding=(1, 1), groups=16),
    Case((1, 35, 9, 8), 35, (3, 3), stride=(2, 2), dilation=(2, 1), padding=(2, 1), groups=35),
]
BANDS = [
    Case((7, 5, 6, 7), 20, (3, 3), padding=(1, 1)),  # images that share a band
    Case((3, 3, 61, 67), 9, (5, 3), stride=(2, 2), padding=(2, 1)),  # few channels: parts of the bands
    Case((1, 3, 150, 150), 4, (7, 7), stride=(2, 2), padding=(3, 3)),
    Case((2, 16, 90, 91), 16, (3, 3), padding=(1, 1), groups=16),
    Case((1, 160, 33, 30), 144, (3, 3), padding=(1, 1)),
]
TRAINED = [case for case in CASES if case.x[0] > 0] + STRIDES + GROUPS + BANDS
NUMBERS = [torch.float32, torch.float64]


def operands(case: Case, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """grad, x, weight and bias with random values."""
    x, weight, bias = case.conv2d_arguments(dtype)
    grad = torch.randn_like(reference.conv2d(x, weight, **case.options))
    return grad, x, weight, bias if bias is not None else torch.randn(case.channels, dtype=dtype)


def gradients(case: Case, grad: Tensor, x: Tensor, weight: Tensor, mask: list[bool] = ALL) -> list[Tensor]:
    return backward(grad, x, weight, case.stride, case.padding, case.dilation, case.groups, mask)


@pytest.mark.parametrize("dtype", NUMBERS, ids=["float32", "float64"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("case", TRAINED, ids=str)
def test_agree_with_the_reference(case: Case, layout: str, dtype: torch.dtype, isa: str) -> None:
    grad, x, weight, bias = operands(case, dtype)
    got = gradients(case, laid_out(grad, layout), laid_out(x, layout), fenced(weight))
    reference.assert_gradients_within_bound(got, reference.conv2d, grad, x, weight, bias, **case.options)


@pytest.mark.parametrize("x_layout", ["contiguous", "channels_last", "sliced", "sliced_channels_last"])
@pytest.mark.parametrize("grad_layout", ["contiguous", "channels_last", "sliced"])
@pytest.mark.parametrize("weight_layout", ["contiguous", "channels_last", "sliced"])
def test_every_tensor_may_lie_in_any_memory_format(
    x_layout: str, grad_layout: str, weight_layout: str, isa: str
) -> None:
    case = Case((2, 6, 7, 9), 10, (3, 2), stride=(1, 2), padding=(1, 1), groups=2)
    grad, x, weight, bias = operands(case)
    got = gradients(case, laid_out(grad, grad_layout), laid_out(x, x_layout), laid_out(weight, weight_layout))
    reference.assert_gradients_within_bound(got, reference.conv2d, grad, x, weight, bias, **case.options)
    last = torch.channels_last if x_layout.endswith("channels_last") else torch.contiguous_format
    assert got[0].is_contiguous(memory_format=last)
    assert got[1].is_contiguous()


@pytest.mark.parametrize("asked", range(3))
@pytest.mark.parametrize("groups", [1, 6])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_only_what_is_asked_for_is_computed(asked: int, groups: int, layout: str, isa: str) -> None:
    case = Case((2, 6, 7, 9), 12, (3, 5), padding=(1, 2), groups=groups)
    grad, x, weight, _ = operands(case)
    grad, x = laid_out(grad, layout), laid_out(x, layout)
    every = gradients(case, grad, x, weight)
    one = gradients(case, grad, x, weight, [i == asked for i in range(3)])
    assert torch.equal(one[asked], every[asked])
    assert [g.numel() for i, g in enumerate(one) if i != asked] == [0] * 2


def test_autograd_asks_for_no_more_than_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = []
    kernel = torch.ops.cnnkern.conv2d_backward.default

    def note(*arguments: object) -> tuple[Tensor, ...]:
        masks.append(arguments[-1])
        return kernel(*arguments)

    # the module, which the function of the same name hides
    monkeypatch.setattr(importlib.import_module("cnnkern.ops.conv2d"), "_conv2d_backward", note)
    for wanted in (0, 1, 2):
        leaves = [
            t.requires_grad_(i == wanted)
            for i, t in enumerate(Case((1, 3, 5, 6), 4, (3, 3)).conv2d_arguments())
        ]
        ops.conv2d(*leaves).sum().backward()
        assert [leaf.grad is not None for leaf in leaves] == [i == wanted for i in range(3)]
        assert list(masks.pop()) == [i == wanted for i in range(3)]


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("case", SHARED + GROUPS + BANDS, ids=str)
def test_bits_do_not_depend_on_the_threads(case: Case, layout: str, isa: str) -> None:
    grad, x, weight, _ = operands(case)
    grad, x = laid_out(grad, layout), laid_out(x, layout)
    results = []
    before = torch.get_num_threads()
    for threads in (1, 2, 3, 7, 2):
        torch.set_num_threads(threads)
        results.append(gradients(case, grad, x, weight))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("groups", [1, 3])
def test_an_empty_batch_gives_zeros(groups: int) -> None:
    case = Case((0, 3, 5, 7), 6, (3, 3), groups=groups)
    grad, x, weight, _ = operands(case)
    grad_x, grad_weight, grad_bias = gradients(case, grad, x, weight)
    assert grad_x.shape == x.shape
    assert torch.equal(grad_weight, torch.zeros_like(weight))
    assert torch.equal(grad_bias, torch.zeros(6))


def test_the_gradient_of_relu_is_that_of_the_output_above_zero(isa: str) -> None:
    case = Case((2, 5, 7, 9), 18, (3, 3), padding=(1, 1))
    arguments = [a.requires_grad_() for a in case.conv2d_arguments()]
    y = ops.conv2d(*arguments, **case.options, activation="relu")
    grad = torch.randn_like(y)
    got = torch.autograd.grad(y, arguments, grad)
    masked = grad * (y > 0)
    reference.assert_gradients_within_bound(got, reference.conv2d, masked, *arguments, **case.options)


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize(
    "case",
    [
        Case((2, 4, 5, 6), 6, (3, 3), padding=(1, 1)),
        Case((1, 4, 7, 8), 6, (3, 2), stride=(2, 1), dilation=(1, 2), groups=2, bias=False),
        Case((1, 4, 6, 5), 8, (3, 3), stride=(1, 2), padding=(1, 1), groups=4),
    ],
    ids=str,
)
def test_gradcheck_in_float64(case: Case, memory_format: torch.memory_format, activation: str | None) -> None:
    x, *rest = case.conv2d_arguments(torch.float64)
    x = x.contiguous(memory_format=memory_format)
    leaves = [a.requires_grad_() for a in (x, *rest) if a is not None]
    assert torch.autograd.gradcheck(lambda *a: ops.conv2d(*a, **case.options, activation=activation), leaves)


def test_a_training_step_compiles_to_the_same(threads: int) -> None:
    case = Case((2, 16, 15, 17), 24, (3, 3), padding=(1, 1))
    x, weight, bias = (a.requires_grad_() for a in case.conv2d_arguments())

    def step(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return ops.conv2d(x, weight, bias, **case.options, activation="relu").square().mean()

    expected = torch.autograd.grad(step(x, weight, bias), (x, weight, bias))
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    got = torch.autograd.grad(compiled(x, weight, bias), (x, weight, bias))
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_there_is_no_second_derivative() -> None:
    arguments = [a.requires_grad_() for a in Case((1, 3, 5, 6), 4, (3, 3)).conv2d_arguments()]
    (first,) = torch.autograd.grad(ops.conv2d(*arguments).sum(), arguments[1], create_graph=True)
    with pytest.raises(NotImplementedError, match="second"):
        first.sum().backward()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"grad": torch.randn(1, 4, 3, 5)}, "grad: expected size"),
        ({"grad": torch.randn(4, 3, 4)}, "grad: expected 4 dimensions"),
        ({"grad": torch.randn(1, 4, 3, 4).double()}, "grad: expected the dtype of x"),
        ({"weight": torch.randn(4, 2, 3, 3)}, "weight: expected size 3"),
        ({"mask": [True, True]}, "output_mask: expected three"),
    ],
    ids=["size", "dimensions", "dtype", "weight", "mask"],
)
def test_the_operation_itself_refuses_what_is_unsafe(wrong: dict, message: str) -> None:
    case = Case((1, 3, 5, 6), 4, (3, 3))
    grad, x, weight, _ = operands(case)
    given = {"grad": grad, "x": x, "weight": weight, "mask": ALL, **wrong}
    with pytest.raises((ValueError, RuntimeError), match=message):
        gradients(case, **given)
