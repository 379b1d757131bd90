"""The gradients of ops.perforated_conv2d: those of all outputs that show a value, added up."""

import pytest
import torch
from torch import Tensor

from cnnkern import ops, reference
from tests.ops.cases import CASES, SHARED, Case, fenced, laid_out
from tests.ops.masks import mask_of

backward = torch.ops.cnnkern.perforated_conv2d_backward
ALL = [True, True, True]
TRAINED = [case for case in CASES if case.x[0] > 0]
# channels that fill panels, so that only kept outputs take part
KEPT = [
    Case((3, 16, 13, 11), 32, (3, 3), padding=(1, 1)),
    Case((2, 31, 9, 14), 47, (3, 2), stride=(2, 3), padding=(2, 1), dilation=(1, 2)),
    Case((2, 32, 8, 7), 64, (5, 3), padding=(0, 3), groups=2),
    Case((7, 48, 5, 5), 30, (1, 1), stride=(2, 1)),
    Case((1, 16, 4, 3), 16, (6, 5), padding=(3, 2)),
]


def operands(case: Case, kind: str, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """grad, x, weight, mask and bias with random values."""
    x, weight, bias = case.conv2d_arguments(dtype)
    grad = torch.randn_like(reference.conv2d(x, weight, **case.options))
    bias = bias if bias is not None else torch.randn(case.channels, dtype=dtype)
    return grad, x, weight, mask_of(case, kind), bias


def gradients(
    case: Case,
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    mask: Tensor,
    asked: list[bool] = ALL,
    nearest: bool = True,
) -> list[Tensor]:
    pairs = (case.stride, case.padding, case.dilation)
    return backward(grad, x, weight, mask, *pairs, case.groups, nearest, asked)


@pytest.mark.parametrize(("kind", "interpolation"), [("half", "none"), ("each image", "nearest")])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("case", TRAINED, ids=str)
def test_agree_with_the_reference(case: Case, layout: str, kind: str, interpolation: str, isa: str) -> None:
    grad, x, weight, mask, bias = operands(case, kind)
    nearest = interpolation == "nearest"
    got = gradients(case, laid_out(grad, layout), laid_out(x, layout), fenced(weight), mask, nearest=nearest)
    options = {**case.options, "interpolation": interpolation}
    reference.assert_gradients_within_bound(
        got, reference.perforated_conv2d, grad, x, weight, mask, bias, **options
    )


@pytest.mark.parametrize("kind", ["half", "few", "one", "each image"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("case", KEPT, ids=str)
def test_those_of_kept_outputs_agree_with_the_reference(case: Case, layout: str, kind: str, isa: str) -> None:
    grad, x, weight, mask, bias = operands(case, kind)
    got = gradients(case, laid_out(grad, layout), laid_out(x, layout), fenced(weight), mask)
    reference.assert_gradients_within_bound(
        got, reference.perforated_conv2d, grad, x, weight, mask, bias, **case.options
    )


@pytest.mark.parametrize("asked", range(3))
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("case", [Case((2, 6, 7, 9), 12, (3, 5), padding=(1, 2)), KEPT[0]], ids=str)
def test_only_what_is_asked_for_is_computed(case: Case, asked: int, layout: str, isa: str) -> None:
    grad, x, weight, mask, _ = operands(case, "half")
    grad, x = laid_out(grad, layout), laid_out(x, layout)
    every = gradients(case, grad, x, weight, mask)
    one = gradients(case, grad, x, weight, mask, [i == asked for i in range(3)])
    assert torch.equal(one[asked], every[asked])
    assert [g.numel() for i, g in enumerate(one) if i != asked] == [0] * 2


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("case", SHARED + KEPT, ids=str)
def test_bits_do_not_depend_on_the_threads(case: Case, layout: str, isa: str) -> None:
    grad, x, weight, mask, _ = operands(case, "each image")
    grad, x = laid_out(grad, layout), laid_out(x, layout)
    results = []
    before = torch.get_num_threads()
    for threads in (1, 2, 3, 7, 2):
        torch.set_num_threads(threads)
        results.append(gradients(case, grad, x, weight, mask))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_an_empty_batch_gives_zeros() -> None:
    case = Case((0, 3, 5, 7), 6, (3, 3))
    grad, x, weight, mask, _ = operands(case, "half")
    grad_x, grad_weight, grad_bias = gradients(case, grad, x, weight, mask)
    assert grad_x.shape == x.shape
    assert torch.equal(grad_weight, torch.zeros_like(weight))
    assert torch.equal(grad_bias, torch.zeros(6))


@pytest.mark.parametrize("interpolation", ["nearest", "none"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("kind", ["half", "one", "each image"])
@pytest.mark.parametrize(
    "case",
    [
        Case((2, 4, 5, 6), 6, (3, 3), padding=(1, 1)),
        Case((1, 4, 7, 8), 6, (3, 2), stride=(2, 1), dilation=(1, 2), groups=2, bias=False),
        Case((1, 4, 6, 5), 8, (3, 3), stride=(1, 2), padding=(1, 1), groups=4),
    ],
    ids=str,
)
def test_gradcheck_in_float64(
    case: Case, kind: str, memory_format: torch.memory_format, interpolation: str
) -> None:
    x, weight, bias = case.conv2d_arguments(torch.float64)
    mask = mask_of(case, kind)
    leaves = [
        None if leaf is None else leaf.requires_grad_()
        for leaf in (x.contiguous(memory_format=memory_format), weight, bias)
    ]

    def call(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return ops.perforated_conv2d(x, weight, mask, bias, **case.options, interpolation=interpolation)

    assert torch.autograd.gradcheck(call, leaves)


def test_autograd_gives_a_gradient_to_what_wants_one() -> None:
    x, weight, bias = Case((1, 3, 5, 6), 4, (3, 3)).conv2d_arguments()
    mask = torch.eye(3, 4).bool()
    for wanted in (x, weight, bias):
        wanted.requires_grad_()
        ops.perforated_conv2d(x, weight, mask, bias).sum().backward()
        assert [leaf.grad is not None for leaf in (x, weight, bias)] == [
            leaf is wanted for leaf in (x, weight, bias)
        ]
        wanted.requires_grad_(False).grad = None


def test_a_training_step_compiles_to_the_same() -> None:
    case = Case((2, 16, 15, 17), 24, (3, 3), padding=(1, 1))
    leaves = [leaf.requires_grad_() for leaf in case.conv2d_arguments()]
    mask = mask_of(case, "half")

    def step(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return ops.perforated_conv2d(x, weight, mask, bias, **case.options).square().mean()

    expected = torch.autograd.grad(step(*leaves), leaves)
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    got = torch.autograd.grad(compiled(*leaves), leaves)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_there_is_no_second_derivative() -> None:
    x, weight, bias = (leaf.requires_grad_() for leaf in Case((1, 3, 5, 6), 4, (3, 3)).conv2d_arguments())
    y = ops.perforated_conv2d(x, weight, torch.ones(3, 4).bool(), bias)
    (first,) = torch.autograd.grad(y.sum(), weight, create_graph=True)
    with pytest.raises(NotImplementedError, match="second"):
        first.sum().backward()
