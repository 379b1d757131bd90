"""What only a GPU can show: streams, graphs, autograd, autocast, layers. Skipped where there is none."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from cnnkern import CPConv2d, Im2colConv2d, ops, reference
from tests.cuda.cases import CUTS, with_dtype
from tests.ops.cases import Case

CASE = Case((2, 16, 9, 12), 24, (3, 3), padding=(1, 1), rank=40)


@pytest.fixture(autouse=True)
def _gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU that torch can use")


def on_gpu(tensors: list[Tensor | None], dtype: torch.dtype = torch.bfloat16) -> list[Tensor | None]:
    return [None if t is None else t.cuda() for t in with_dtype(tensors, dtype)]


def calls(case: Case, dtype: torch.dtype = torch.bfloat16) -> Iterator[Callable[[], Tensor]]:
    dense, factors = on_gpu(case.conv2d_arguments(), dtype), on_gpu(case.cp_arguments(), dtype)
    yield lambda: ops.conv2d(*dense, **case.options)
    yield lambda: ops.cp_conv2d(*factors, **case.options)
    yield lambda: ops.im2col(dense[0], case.kernel, padding=case.padding)


def test_every_kernel_runs_on_small_cases() -> None:
    """What compute-sanitizer looks into."""
    for case in (CASE, *CUTS[-2:]):
        for dtype in (torch.float32, torch.float16):
            x, weight, bias = (t.requires_grad_() for t in on_gpu(case.conv2d_arguments(), dtype))
            factors = [t.requires_grad_() for t in on_gpu(case.cp_arguments(), dtype)[1:]]
            for memory_format in (torch.contiguous_format, torch.channels_last):
                image = x.contiguous(memory_format=memory_format)
                ops.conv2d(image, weight, bias, **case.options).float().sum().backward()
                ops.cp_conv2d(image, *factors, **case.options).float().sum().backward()
                for call in calls(case, dtype):
                    call()
    torch.cuda.synchronize()


@pytest.mark.parametrize("which", range(3))
def test_captured_calls_follow_their_input(which: int) -> None:
    x = on_gpu([torch.randn(CASE.x)])[0]
    dense, factors = on_gpu(CASE.conv2d_arguments()), on_gpu(CASE.cp_arguments())
    call = (
        lambda: ops.conv2d(x, *dense[1:], **CASE.options),
        lambda: ops.cp_conv2d(x, *factors[1:], **CASE.options),
        lambda: ops.im2col(x, CASE.kernel),
    )[which]
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
    for call in calls(Case((1, 512, 7, 7), 512, (3, 3), padding=(1, 1), rank=384)):
        expected = call()
        assert all(torch.equal(call(), expected) for _ in range(5))


@pytest.mark.parametrize("kind", [Im2colConv2d, CPConv2d])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_layers_compute_in_eval_mode(kind: type[nn.Module], dtype: torch.dtype) -> None:
    rank = {"rank": 24} if kind is CPConv2d else {}
    layer = kind(16, 24, 3, padding=1, **rank).eval().to("cuda", dtype)
    x = torch.randn(2, 16, 9, 12, device="cuda", dtype=dtype)
    with torch.no_grad():
        y = layer(x)
        expected = layer.to_conv().double()(x.double())
    eps = max(torch.finfo(dtype).eps, 2.0**-10)
    assert (y - expected).abs().max() <= 2 * 9 * eps * expected.abs().max() * 16


def test_autograd_and_autocast() -> None:
    layer = Im2colConv2d(16, 24, 3, padding=1).cuda()
    x = torch.randn(2, 16, 9, 12, device="cuda", requires_grad=True)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert x.grad.shape == x.shape
    assert layer.weight.grad.dtype == torch.float32


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


def test_agrees_on_a_large_layer() -> None:
    case = Case((2, 128, 56, 56), 256, (3, 3), stride=(2, 2), padding=(1, 1), rank=128)
    for operation in ("conv2d", "cp_conv2d"):
        tensors = case.conv2d_arguments() if operation == "conv2d" else case.cp_arguments()
        given = on_gpu(tensors)
        y = getattr(ops, operation)(*given, **case.options)
        eps = torch.finfo(torch.bfloat16).eps
        reference.assert_within_mixed_bound(y, getattr(reference, operation), eps, *given, **case.options)
