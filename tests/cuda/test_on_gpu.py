"""What only a GPU can show of the kernels: streams, graphs, devices, large tensors. Skipped where there is
none."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from cnnkern import ops, reference
from tests.cuda.cases import CUTS, DEPTHWISE
from tests.cuda.gpu_calls import (
    CASE,
    OPERATIONS,
    WAIT,
    calls,
    gradients,
    input_and_gradient,
    int8_calls,
    on_gpu,
    operation_on_gpu,
    same,
    tensors_of,
)
from tests.ops.cases import Case
from tests.ops.integers import conv2d_arguments, integers

pytestmark = pytest.mark.usefixtures("gpu")

FORMATS = [torch.contiguous_format, torch.channels_last]


def test_every_kernel_runs_on_small_cases() -> None:
    """What compute-sanitizer looks into."""
    for case in (CASE, *CUTS[-2:], replace(DEPTHWISE[0], rank=16)):
        for memory_format in FORMATS:
            numbers = integers(case.x, torch.uint8).cuda().contiguous(memory_format=memory_format)
            for call in int8_calls(case).values():
                call(numbers)
            for dtype in (torch.float32, torch.float16):
                x, grad = (t.contiguous(memory_format=memory_format) for t in input_and_gradient(case, dtype))
                for call in calls(case, dtype).values():
                    call(x)
                for gradient in gradients(case, dtype).values():
                    gradient(x, grad)
    torch.cuda.synchronize()


@pytest.mark.parametrize("name", OPERATIONS)
def test_captured_operations_follow_their_input(name: str) -> None:
    operation, (x, *rest) = operation_on_gpu(name)
    operation(x, *rest)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = operation(x, *rest)
    _, (other, *_) = operation_on_gpu(name)
    x.copy_(other)
    graph.replay()
    assert same(y, operation(x, *rest))


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_wait_for_the_current_stream(name: str) -> None:
    """On another they would find zeros."""
    operation, given = operation_on_gpu(name)
    tensors = [t for t in given if isinstance(t, Tensor)]
    values = [t.clone() for t in tensors]
    expected = operation(*given)
    for t in tensors:
        t.zero_()
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(WAIT)
        for t, value in zip(tensors, values, strict=True):
            t.copy_(value)
        y = operation(*given)
    stream.synchronize()
    assert same(y, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU at most")
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_go_to_the_device_of_their_tensors(name: str) -> None:
    operation, given = operation_on_gpu(name)
    expected = operation(*given)
    second = torch.device("cuda", 1)
    y = operation(*(a.to(second) if isinstance(a, Tensor) else a for a in given))
    assert all(t.device == second for t in tensors_of(y))
    assert same(tuple(t.to("cuda:0") for t in tensors_of(y)), expected)


ONE = Case((1, 64, 1024, 1024), 64, (1, 1), rank=32)
ONE_DEPTHWISE = Case((1, 64, 1024, 1024), 64, (3, 3), padding=(1, 1), groups=64, rank=64)
IMAGES = 33  # the last of them begins at element 2**31
MASKS = "perforated_conv2d with a mask for each image"  # as many as the case has images


def large(dtype: torch.dtype, memory_format: torch.memory_format, numbers: range) -> Tensor:
    """So many images of whole numbers."""
    torch.cuda.empty_cache()
    if torch.cuda.mem_get_info()[0] < 24 << 30:
        pytest.skip("less than 24 GiB of free memory on the GPU")
    x = torch.empty((IMAGES, *ONE.x[1:]), dtype=dtype, device="cuda", memory_format=memory_format)
    assert x[:-1].numel() == 2**31
    return x.random_(numbers.start, numbers.stop)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.uint8])
def test_elements_beyond_the_31st_bit_are_reached(
    dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    """The last of so many images comes out as it does alone."""
    functions, numbers = (calls, range(-9, 10)) if dtype is torch.bfloat16 else (int8_calls, range(256))
    x = large(dtype, memory_format, numbers)
    last = x[-1:].clone()
    with torch.device("cuda"):  # where random numbers take no time
        every, (depthwise, *_) = functions(ONE), functions(ONE_DEPTHWISE).values()
    every.pop(MASKS, None)
    for name, call in {**every, "depthwise": depthwise}.items():
        expected = call(last)
        assert torch.equal(call(x)[-len(expected) :], expected), name


@pytest.mark.parametrize("memory_format", FORMATS)
def test_gradients_beyond_the_31st_bit_are_reached(memory_format: torch.memory_format) -> None:
    """Where no other image has an outgoing gradient, those of the last are what they are of it alone: sums of
    whole numbers are exact, in any order."""
    x, grad = (large(torch.bfloat16, memory_format, range(-1, 2)) for _ in range(2))
    grad[:-1] = 0
    last = x[-1:].clone(), grad[-1:].clone()
    with torch.device("cuda"):
        every = gradients(ONE, whole=True)
    every.pop(MASKS)
    for name, gradient in every.items():
        of_last, *expected = gradient(*last)
        of_x, *others = gradient(x, grad)
        assert torch.equal(of_x[-1:], of_last), name
        assert not of_x[:-1].any(), name
        assert all(map(torch.equal, others, expected)), name


def test_the_same_bits_every_time() -> None:
    for case in (
        Case((1, 512, 7, 7), 512, (3, 3), padding=(1, 1), rank=384),
        Case((8, 64, 28, 28), 64, (3, 3), padding=(1, 1), rank=64),
    ):
        x, grad = input_and_gradient(case)
        numbers = integers(case.x, torch.uint8).cuda()
        results = {name: partial(call, x) for name, call in calls(case).items()}
        results |= {name: partial(call, numbers) for name, call in int8_calls(case).items()}
        results |= {f"gradients of {name}": partial(call, x, grad) for name, call in gradients(case).items()}
        for name, result in results.items():
            expected = result()
            assert all(same(result(), expected) for _ in range(5)), name


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
