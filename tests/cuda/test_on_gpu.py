"""What only a GPU can show of the kernels: streams, graphs, devices, large tensors. Skipped where there is
none."""

import pytest
import torch
from torch import nn

from cnnkern import Int8Conv2d, ops, reference
from tests.cuda.cases import CUTS
from tests.cuda.gpu_calls import CASE, calls, dense_gradients, int8_calls, on_gpu, sparse_gradients
from tests.ops.cases import Case
from tests.ops.integers import conv2d_arguments

pytestmark = pytest.mark.usefixtures("gpu")


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


@pytest.mark.parametrize("which", range(4))
def test_captured_gradients_follow_their_input(which: int) -> None:
    x = on_gpu([torch.randn(CASE.x)])[0]
    gradients = [*dense_gradients(CASE, x), *sparse_gradients(CASE, x)][which]
    gradients()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = gradients()
    x.copy_(torch.randn_like(x))
    graph.replay()
    assert all(map(torch.equal, captured, gradients()))


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


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU at most")
def test_calls_go_to_the_device_of_their_input() -> None:
    first, second = (torch.device("cuda", index) for index in range(2))
    x, weight, bias = on_gpu(CASE.conv2d_arguments())
    with torch.cuda.device(first):
        y = ops.conv2d(*(t.to(second) for t in (x, weight, bias)), **CASE.options)
    assert y.device == second
    assert torch.equal(y.to(first), ops.conv2d(*(t.to(first) for t in (x, weight, bias)), **CASE.options))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_elements_beyond_the_31st_bit_are_reached(memory_format: torch.memory_format) -> None:
    """The last of so many images comes out as it does alone."""
    if torch.cuda.mem_get_info()[0] < 24 << 30:
        pytest.skip("less than 24 GiB of free memory on the GPU")
    case = Case((1, 64, 4, 4), 64, (1, 1), rank=32)
    x = torch.empty(33, 64, 1024, 1024, dtype=torch.bfloat16, device="cuda", memory_format=memory_format)
    x.normal_()
    assert x.numel() > 2**31
    last = x[-1:].clone(memory_format=memory_format)
    operands = on_gpu(case.conv2d_arguments()), on_gpu(case.cp_arguments()), case.column_sparse_arguments()
    (_, *dense), (_, *factors), (_, sparse, columns, _) = operands
    sparse, columns = sparse.to(x), columns.cuda()
    for call in (
        lambda image: ops.conv2d(image, *dense),
        lambda image: ops.cp_conv2d(image, *factors),
        lambda image: ops.column_sparse_conv2d(image, sparse, columns, kernel_size=1),
        lambda image: ops.im2col(image, 1),
    ):
        assert torch.equal(call(x)[-1:], call(last))


def test_the_same_bits_every_time() -> None:
    case = Case((1, 512, 7, 7), 512, (3, 3), padding=(1, 1), rank=384)
    for call in (*calls(case), *int8_calls(case)):
        expected = call()
        assert all(torch.equal(call(), expected) for _ in range(5))
    case = Case((8, 64, 28, 28), 64, (3, 3), padding=(1, 1))
    for call in sparse_gradients(case, torch.randn(case.x, device="cuda")):
        expected = call()
        assert all(map(torch.equal, call(), expected))


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
