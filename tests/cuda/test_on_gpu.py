"""What only a GPU can show: streams, graphs, autograd, autocast, layers. Skipped where there is none."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cnnkern import (
    ColumnSparseConv2d,
    CPConv2d,
    Im2colConv2d,
    Int8Conv2d,
    Int8Linear,
    PerforatedConv2d,
    ops,
    reference,
)
from tests.cuda.cases import CUTS, with_dtype
from tests.ops.cases import Case
from tests.ops.integers import conv2d_arguments
from tests.ops.masks import mask_of

CASE = Case((2, 16, 9, 12), 24, (3, 3), padding=(1, 1), rank=40)


@pytest.fixture(autouse=True)
def _gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU that torch can use")


def on_gpu(tensors: list[Tensor | None], dtype: torch.dtype = torch.bfloat16) -> list[Tensor | None]:
    return [None if t is None else t.cuda() for t in with_dtype(tensors, dtype)]


def int8_on_gpu(case: Case) -> tuple[list[Tensor | None], dict[str, Any]]:
    tensors, options = conv2d_arguments(case, torch.uint8)
    on_device = [None if t is None else t.cuda() for t in tensors]
    return on_device, options | {"weight_scale": options["weight_scale"].cuda()}


def calls(
    case: Case, dtype: torch.dtype = torch.bfloat16, x: Tensor | None = None
) -> list[Callable[[], Tensor]]:
    """A call of each operation, on `x` or on an input of its own."""
    dense, (_, *factors) = on_gpu(case.conv2d_arguments(), dtype), on_gpu(case.cp_arguments(), dtype)
    x = dense[0] if x is None else x
    mask = mask_of(case, "half").cuda()
    masks = mask_of(case, "each image").cuda()
    _, sparse, columns, bias = case.column_sparse_arguments()
    (sparse, bias), columns = on_gpu([sparse, bias], dtype), columns.cuda()
    kernel = {"kernel_size": case.kernel}
    return [
        lambda: ops.conv2d(x, *dense[1:], **case.options),
        lambda: ops.cp_conv2d(x, *factors, **case.options),
        lambda: ops.im2col(x, case.kernel, padding=case.padding),
        lambda: ops.column_sparse_conv2d(x, sparse, columns, bias, **kernel, **case.options),
        lambda: ops.perforated_conv2d(x, dense[1], mask, bias, **case.options),
        lambda: ops.perforated_conv2d(x, dense[1], masks, bias, **case.options, interpolation="none"),
    ]


def int8_calls(case: Case) -> list[Callable[[], Tensor]]:
    (x, weight, bias), options = int8_on_gpu(case)
    images = x, x.contiguous(memory_format=torch.channels_last)
    return [partial(ops.int8_conv2d, image, weight, bias, **options) for image in images]


def test_every_kernel_runs_on_small_cases() -> None:
    """What compute-sanitizer looks into."""
    for case in (CASE, *CUTS[-2:]):
        for call in int8_calls(case):
            call()
        for dtype in (torch.float32, torch.float16):
            x, weight, bias = (t.requires_grad_() for t in on_gpu(case.conv2d_arguments(), dtype))
            factors = [t.requires_grad_() for t in on_gpu(case.cp_arguments(), dtype)[1:]]
            for memory_format in (torch.contiguous_format, torch.channels_last):
                image = x.contiguous(memory_format=memory_format)
                ops.conv2d(image, weight, bias, **case.options).float().sum().backward()
                ops.cp_conv2d(image, *factors, **case.options).float().sum().backward()
                for call in calls(case, dtype, image.detach()):
                    call()
                for gradient in sparse_gradients(case, image.detach()):
                    gradient()
    torch.cuda.synchronize()


def sparse_gradients(case: Case, x: Tensor) -> list[Callable[[], tuple[Tensor, ...]]]:
    """Calls of the gradients of the column-sparse and of the perforated convolution."""
    _, sparse, columns, _ = case.column_sparse_arguments()
    _, dense, _ = case.conv2d_arguments()
    sparse, dense, columns = sparse.to(x), dense.to(x), columns.cuda()
    mask = mask_of(case, "each image").cuda()
    grad = torch.randn_like(ops.conv2d(x, dense, **case.options))
    pairs = case.stride, case.padding, case.dilation, case.groups
    every = [True] * 3
    operations = torch.ops.cnnkern
    return [
        lambda: operations.column_sparse_conv2d_backward(
            grad, x, sparse, columns, case.kernel, *pairs, every
        ),
        lambda: operations.perforated_conv2d_backward(grad, x, dense, mask, *pairs, True, every),
    ]


@pytest.mark.parametrize("which", range(7))
def test_captured_calls_follow_their_input(which: int) -> None:
    x = on_gpu([torch.randn(CASE.x)])[0]
    integers = Int8Conv2d.from_conv(nn.Conv2d(16, 24, 3), 0.05, 128).eval().cuda()
    call = [*calls(CASE, x=x), lambda: integers(x)][which]
    call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = call()
    x.copy_(torch.randn_like(x))
    graph.replay()
    assert torch.equal(y, call())


def test_calls_go_to_the_current_stream() -> None:
    stream = torch.cuda.Stream()
    x, weight, _ = on_gpu(Case((8, 64, 128, 128), 64, (3, 3)).conv2d_arguments(), torch.float32)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        before = torch.zeros_like(x)
        for _ in range(50):
            before = before + x  # keeps the stream busy while the next call is queued
        y = ops.conv2d(before, weight)
    stream.synchronize()
    assert torch.equal(y, ops.conv2d(before, weight))


def test_the_same_bits_every_time() -> None:
    case = Case((1, 512, 7, 7), 512, (3, 3), padding=(1, 1), rank=384)
    for call in (*calls(case), *int8_calls(case)):
        expected = call()
        assert all(torch.equal(call(), expected) for _ in range(5))
    case = Case((8, 64, 28, 28), 64, (3, 3), padding=(1, 1))
    for call in sparse_gradients(case, torch.randn(case.x, device="cuda")):
        expected = call()
        assert all(map(torch.equal, call(), expected))


LAYERS = {
    "dense": (Im2colConv2d, {}),
    "cp": (CPConv2d, {"rank": 24}),
    "columns": (ColumnSparseConv2d, {"columns": torch.arange(0, 144, 3)}),
    "perforated": (PerforatedConv2d, {"mask": mask_of(CASE, "half")}),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_layers_compute_in_eval_mode(name: str, dtype: torch.dtype) -> None:
    kind, own = LAYERS[name]
    layer = kind(16, 24, 3, padding=1, **own).eval().to("cuda", dtype)
    x = torch.randn(2, 16, 9, 12, device="cuda", dtype=dtype)
    stock = layer.to_stock() if name == "perforated" else layer.to_conv()
    with torch.no_grad():
        y = layer(x)
        expected = stock.double()(x.double())
    eps = max(torch.finfo(dtype).eps, 2.0**-10)
    assert (y - expected).abs().max() <= 2 * 9 * eps * expected.abs().max() * 16


@pytest.mark.parametrize("out_scale", [None, 0.05])
@pytest.mark.parametrize("kind", [Int8Conv2d, Int8Linear])
def test_int8_layers_compute_what_they_do_on_the_cpu(kind: type[nn.Module], out_scale: float | None) -> None:
    """Of real numbers and of integers, and their state goes back and forth."""
    numbers = {"x_scale": 0.05, "x_zero_point": 120, "out_scale": out_scale, "out_zero_point": 99}
    if kind is Int8Conv2d:
        layer = kind.from_conv(nn.Conv2d(16, 24, 3, padding=1).eval(), **numbers)
    else:
        layer = kind.from_linear(nn.Linear(12, 24).eval(), **numbers)
    moved = deepcopy(layer).cuda()
    for x in (torch.randn(2, 16, 9, 12), torch.randint(256, (2, 16, 9, 12), dtype=torch.uint8)):
        for call in (moved, deepcopy(moved).train()):
            y = call(x.cuda())
            assert y.is_cuda
            assert torch.equal(y.cpu(), layer(x))
    layer.load_state_dict(moved.state_dict())
    assert torch.equal(moved.cpu()(x), layer(x))


def test_autograd_and_autocast() -> None:
    layer = Im2colConv2d(16, 24, 3, padding=1).cuda()
    x = torch.randn(2, 16, 9, 12, device="cuda", requires_grad=True)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert x.grad.shape == x.shape
    assert layer.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("name", ["columns", "perforated"])
def test_layers_train(name: str) -> None:
    kind, own = LAYERS[name]
    torch.manual_seed(0)
    layer = kind(16, 24, 3, padding=1, **own)
    copy = deepcopy(layer).cuda()
    x, grad = torch.randn(2, 16, 9, 12), torch.randn(2, 24, 9, 12)
    other, ours = x.double().requires_grad_(), x.cuda().requires_grad_()
    copy(ours).backward(grad.cuda())
    layer.double()(other).backward(grad.double())
    for got, expected in ((ours, other), (copy.weight, layer.weight), (copy.bias, layer.bias)):
        exact = expected.grad
        assert (got.grad.cpu() - exact).abs().max() <= 2.0**-10 * exact.abs().max() * 16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_cp_gradients_are_those_of_the_reference(
    dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    """What gradcheck would show, if there were kernels in float64: up to the rounding of each sum."""
    case = Case((3, 40, 29, 31), 136, (3, 5), stride=(2, 1), padding=(1, 2), dilation=(1, 2), rank=72)
    x, *rest = on_gpu(case.cp_arguments(), dtype)
    leaves = [t.requires_grad_() for t in (x.contiguous(memory_format=memory_format), *rest)]
    y = ops.cp_conv2d(*leaves, **case.options)
    grad = torch.randn_like(y)
    got = torch.autograd.grad(y, leaves, grad)
    eps = max(torch.finfo(dtype).eps, 2.0**-10)  # TF32 or not
    reference.assert_mixed_gradients_within_bound(
        got, reference.cp_conv2d, eps, grad, *leaves, **case.options
    )


@pytest.mark.parametrize("autocast", [False, True])
def test_a_training_step_lowers_the_loss(autocast: bool) -> None:
    torch.manual_seed(0)
    layer = CPConv2d(16, 24, 3, padding=1, rank=40).cuda()
    x, target = torch.randn(4, 16, 19, 17, device="cuda"), torch.randn(4, 24, 19, 17, device="cuda")
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.05)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=autocast):
            loss = nn.functional.mse_loss(layer(x).float(), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > losses[1] > losses[2]
    assert all(p.grad.isfinite().all() and p.grad.any() for p in layer.parameters())


@pytest.mark.parametrize("name", ["conv2d", "cp_conv2d"])
def test_opcheck(name: str) -> None:
    given = CASE.conv2d_arguments() if name == "conv2d" else CASE.cp_arguments()
    pairs = [list(CASE.stride), list(CASE.padding), list(CASE.dilation)]
    last = [CASE.groups, False] if name == "conv2d" else [CASE.groups]
    arguments = (*on_gpu(given, torch.float32), *pairs, *last)
    torch.library.opcheck(getattr(torch.ops.cnnkern, name).default, arguments)


def test_opcheck_of_integers() -> None:
    (x, weight, bias), options = int8_on_gpu(CASE)
    numbers = options["weight_scale"], options["x_scale"], options["x_zero_point"], 10.0, 7
    arguments = (x, weight, bias, *numbers, *map(list, (CASE.stride, CASE.padding, CASE.dilation)), 1, True)
    torch.library.opcheck(torch.ops.cnnkern.int8_conv2d.default, arguments)
    with torch.autocast("cuda"):
        y = torch.ops.cnnkern.int8_conv2d(*arguments)
    assert torch.equal(y, torch.ops.cnnkern.int8_conv2d(*arguments))


@pytest.mark.parametrize("kind", ["half", "each image"])
def test_opcheck_of_sparse_operations(kind: str) -> None:
    x, weight, bias = on_gpu(CASE.conv2d_arguments(), torch.float32)
    mask = mask_of(CASE, kind).cuda()
    _, sparse, columns, _ = CASE.column_sparse_arguments()
    pairs = [list(CASE.stride), list(CASE.padding), list(CASE.dilation)]
    steps = [*CASE.weight_size, *CASE.stride, *CASE.padding, *CASE.dilation, CASE.groups]
    sparse, columns, kernel = sparse.cuda(), columns.cuda(), list(CASE.kernel)
    operations = torch.ops.cnnkern
    packed = operations.column_sparse_conv2d_pack(sparse, columns, kernel, CASE.groups)
    arranged = operations.perforated_conv2d_arrange(mask, True)
    dense = operations.conv2d_pack(weight, CASE.groups)
    for name, given in {
        "column_sparse_conv2d": (x, sparse, columns, bias, kernel, *pairs, CASE.groups),
        "column_sparse_conv2d_pack": (sparse, columns, kernel, CASE.groups),
        "column_sparse_conv2d_packed": (x, packed, bias, steps, columns),
        "perforated_conv2d": (x, weight, mask, bias, *pairs, CASE.groups, True),
        "perforated_conv2d_arrange": (mask, True),
        "perforated_conv2d_packed": (x, dense, bias, steps, arranged),
        "perforated_conv2d_sources": (mask, False),
    }.items():
        torch.library.opcheck(getattr(operations, name).default, given)


def test_agrees_on_a_large_layer() -> None:
    case = Case((2, 128, 56, 56), 256, (3, 3), stride=(2, 2), padding=(1, 1), rank=128)
    for operation in ("conv2d", "cp_conv2d"):
        tensors = case.conv2d_arguments() if operation == "conv2d" else case.cp_arguments()
        given = on_gpu(tensors)
        y = getattr(ops, operation)(*given, **case.options)
        eps = torch.finfo(torch.bfloat16).eps
        reference.assert_within_mixed_bound(y, getattr(reference, operation), eps, *given, **case.options)
    tensors, options = conv2d_arguments(case, torch.int8)
    expected = reference.int8_conv2d(*tensors, **options)
    options["weight_scale"] = options["weight_scale"].cuda()
    assert torch.equal(ops.int8_conv2d(*(t.cuda() for t in tensors), **options).cpu(), expected)
