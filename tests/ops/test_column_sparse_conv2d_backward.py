"""The gradients of ops.column_sparse_conv2d, each only where it is asked for."""

import importlib

import pytest
import torch
from torch import Tensor

from cnnkern import ops, reference
from tests.ops.cases import CASES, SHARED, Case, fenced, laid_out

backward = torch.ops.cnnkern.column_sparse_conv2d_backward
ALL = [True, True, True]
STRIDES = [
    *(Case((1, 3, 19, 23), 5, (3, 5), stride=(s, s), padding=(1, 2)) for s in (2, 3, 4)),
    Case((2, 3, 17, 19), 18, (4, 5), stride=(4, 6), dilation=(2, 4), padding=(3, 5)),
    Case((2, 2, 4, 3), 17, (2, 2), stride=(3, 2), padding=(5, 4)),
]
CHUNKS = [
    Case((2, 97, 9, 7), 18, (3, 3), padding=(1, 1)),  # of 256 columns, and more than one image in a band
    Case((1, 6, 33, 17), 4, (11, 9), padding=(5, 4)),  # a channel has as many columns as a chunk
    Case((1, 90, 19, 17), 34, (3, 3), padding=(1, 1), groups=2),
]
TRAINED = [case for case in CASES if case.x[0] > 0] + STRIDES + CHUNKS
by_format = pytest.mark.parametrize("layout", ["contiguous", "channels_last"])


def operands(
    case: Case, dtype: torch.dtype = torch.float32, density: float = 0.3
) -> tuple[Tensor, list[Tensor]]:
    """The gradient of the output, and x, weight, columns and bias, with random values."""
    x, weight, columns, bias = case.column_sparse_arguments(dtype, density)
    bias = torch.randn(case.channels, dtype=dtype) if bias is None else bias
    y = reference.column_sparse_conv2d(x, weight, columns, kernel_size=case.kernel, **case.options)
    return torch.randn_like(y), [x, weight, columns, bias]


def gradients(
    case: Case, grad: Tensor, x: Tensor, weight: Tensor, columns: Tensor, mask: list[bool] = ALL
) -> list[Tensor]:
    pairs = case.kernel, case.stride, case.padding, case.dilation
    return backward(grad, x, weight, columns, *pairs, case.groups, mask)


def assert_agree(got: list[Tensor], case: Case, grad: Tensor, arguments: list[Tensor]) -> None:
    operation, options = reference.column_sparse_conv2d, {"kernel_size": case.kernel, **case.options}
    reference.assert_gradients_within_bound(got, operation, grad, *arguments, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@by_format
@pytest.mark.parametrize("case", TRAINED, ids=str)
def test_agree_with_the_reference(case: Case, layout: str, dtype: torch.dtype, isa: str) -> None:
    grad, arguments = operands(case, dtype)
    x, weight, columns, _ = arguments
    got = gradients(case, laid_out(grad, layout), laid_out(x, layout), fenced(weight), columns)
    assert_agree(got, case, grad, arguments)


@pytest.mark.parametrize("density", [1.0, 0.0], ids=["all", "one"])
@by_format
@pytest.mark.parametrize("case", [*TRAINED[::4], *CHUNKS], ids=str)
def test_any_number_of_columns_may_be_kept(case: Case, layout: str, density: float, isa: str) -> None:
    grad, arguments = operands(case, density=density)
    x, weight, columns, _ = arguments
    got = gradients(case, laid_out(grad, layout), laid_out(x, layout), weight, columns)
    assert_agree(got, case, grad, arguments)


@by_format
def test_without_columns_the_input_has_no_gradient(layout: str, isa: str) -> None:
    case = Case((2, 5, 7, 9), 18, (3, 3), padding=(1, 1))
    grad, (x, weight, columns, _) = operands(case)
    for_x, for_weight, for_bias = gradients(case, grad, laid_out(x, layout), weight[:, :0], columns[:0])
    assert torch.equal(for_x, torch.zeros_like(x))
    assert for_weight.shape == (18, 0)
    torch.testing.assert_close(for_bias, grad.sum((0, 2, 3)))


@pytest.mark.parametrize("x_layout", ["contiguous", "channels_last", "sliced", "sliced_channels_last"])
@pytest.mark.parametrize("grad_layout", ["contiguous", "channels_last", "sliced"])
def test_every_tensor_may_lie_in_any_memory_format(x_layout: str, grad_layout: str, isa: str) -> None:
    case = Case((2, 6, 7, 9), 10, (3, 2), stride=(1, 2), padding=(1, 1), groups=2)
    grad, arguments = operands(case)
    x, weight, columns, _ = arguments
    strided = torch.stack([weight, torch.full_like(weight, torch.nan)], 2)[..., 0]
    got = gradients(case, laid_out(grad, grad_layout), laid_out(x, x_layout), strided, columns)
    assert_agree(got, case, grad, arguments)
    last = torch.channels_last if x_layout.endswith("channels_last") else torch.contiguous_format
    assert got[0].is_contiguous(memory_format=last)
    assert got[1].is_contiguous()


@pytest.mark.parametrize("asked", range(3))
@by_format
def test_only_what_is_asked_for_is_computed(asked: int, layout: str, isa: str) -> None:
    case = Case((2, 6, 7, 9), 12, (3, 5), padding=(1, 2), groups=2)
    grad, (x, weight, columns, _) = operands(case)
    grad, x = laid_out(grad, layout), laid_out(x, layout)
    every = gradients(case, grad, x, weight, columns)
    one = gradients(case, grad, x, weight, columns, [i == asked for i in range(3)])
    assert torch.equal(one[asked], every[asked])
    assert [g.numel() for i, g in enumerate(one) if i != asked] == [0] * 2


def test_autograd_asks_for_no_more_than_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = []
    kernel = torch.ops.cnnkern.column_sparse_conv2d_backward.default

    def note(*arguments: object) -> tuple[Tensor, ...]:
        masks.append(arguments[-1])
        return kernel(*arguments)

    # the module, which the function of the same name hides
    module = importlib.import_module("cnnkern.ops.column_sparse_conv2d")
    monkeypatch.setattr(module, "_column_sparse_conv2d_backward", note)
    for wanted in range(3):
        x, weight, columns, bias = Case((1, 3, 5, 6), 4, (3, 3)).column_sparse_arguments()
        leaves = [t.requires_grad_(i == wanted) for i, t in enumerate((x, weight, bias))]
        ops.column_sparse_conv2d(x, weight, columns, bias, kernel_size=3).sum().backward()
        assert [leaf.grad is not None for leaf in leaves] == [i == wanted for i in range(3)]
        assert list(masks.pop()) == [i == wanted for i in range(3)]


@by_format
@pytest.mark.parametrize("case", SHARED + CHUNKS, ids=str)
def test_bits_do_not_depend_on_the_threads(case: Case, layout: str, isa: str) -> None:
    grad, (x, weight, columns, _) = operands(case)
    grad, x = laid_out(grad, layout), laid_out(x, layout)
    results = []
    before = torch.get_num_threads()
    for threads in (1, 2, 3, 7, 2):
        torch.set_num_threads(threads)
        results.append(gradients(case, grad, x, weight, columns))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("groups", [1, 3])
def test_an_empty_batch_gives_zeros(groups: int) -> None:
    case = Case((0, 3, 5, 7), 6, (3, 3), groups=groups)
    grad, (x, weight, columns, _) = operands(case)
    grad_x, grad_weight, grad_bias = gradients(case, grad, x, weight, columns)
    assert grad_x.shape == x.shape
    assert torch.equal(grad_weight, torch.zeros_like(weight))
    assert torch.equal(grad_bias, torch.zeros(6))


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
def test_gradcheck_in_float64(case: Case, memory_format: torch.memory_format) -> None:
    x, weight, columns, *bias = case.column_sparse_arguments(torch.float64)
    x = x.contiguous(memory_format=memory_format)
    leaves = [a.requires_grad_() for a in (x, weight, *bias) if a is not None]

    def call(x: Tensor, weight: Tensor, *bias: Tensor) -> Tensor:
        return ops.column_sparse_conv2d(x, weight, columns, *bias, kernel_size=case.kernel, **case.options)

    assert torch.autograd.gradcheck(call, leaves)


def test_a_training_step_compiles_to_the_same(threads: int) -> None:
    case = Case((2, 16, 15, 17), 24, (3, 3), padding=(1, 1))
    x, weight, columns, bias = case.column_sparse_arguments()
    leaves = [a.requires_grad_() for a in (x, weight, bias)]

    def step(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y = ops.column_sparse_conv2d(x, weight, columns, bias, kernel_size=case.kernel, **case.options)
        return y.square().mean()

    expected = torch.autograd.grad(step(*leaves), leaves)
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    got = torch.autograd.grad(compiled(*leaves), leaves)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_there_is_no_second_derivative() -> None:
    x, weight, columns, _ = Case((1, 3, 5, 6), 4, (3, 3)).column_sparse_arguments()
    y = ops.column_sparse_conv2d(x.requires_grad_(), weight.requires_grad_(), columns, kernel_size=3)
    (first,) = torch.autograd.grad(y.sum(), weight, create_graph=True)
    with pytest.raises(NotImplementedError, match="second"):
        first.sum().backward()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"grad": torch.randn(1, 4, 3, 5)}, "grad: expected size"),
        ({"grad": torch.randn(1, 4, 3, 4).double()}, "grad: expected the dtype of x"),
        ({"weight": torch.randn(4, 7)}, "weight: expected size 8"),
        ({"columns": torch.arange(20, 28).int()}, "columns: expected strictly increasing .* got 27"),
        ({"columns": torch.zeros(8).int()}, "columns: expected strictly increasing .* got 0"),
        ({"mask": [True, True]}, "output_mask: expected three"),
    ],
    ids=["size", "dtype", "weight", "outside", "twice", "mask"],
)
def test_the_operation_itself_refuses_what_is_unsafe(wrong: dict, message: str) -> None:
    case = Case((1, 3, 5, 6), 4, (3, 3))
    grad, (x, weight, columns, _) = operands(case)
    given = {"grad": grad, "x": x, "weight": weight, "columns": columns, "mask": ALL, **wrong}
    with pytest.raises((ValueError, RuntimeError), match=message):
        gradients(case, **given)
