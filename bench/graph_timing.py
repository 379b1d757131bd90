"""Timing on a GPU: captured calls, replayed in turns, with the cache emptied before each."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from torch import Tensor

from bench.gpu_record import WGMMA
from bench.timing import Timing
from cnnkern import _C

WARM_UP_CALLS = 3  # cuDNN chooses its algorithm, caches are filled
# Of waiting on the GPU, some 100 us, in which the CPU launches what is timed: its own time is not to be seen.
WAIT_CYCLES = 200_000
# name of an arithmetic: dtype, whether TF32 is allowed, relative spacing of what goes into products
ARITHMETICS = {
    "bfloat16": (torch.bfloat16, False, torch.finfo(torch.bfloat16).eps),
    "tf32": (torch.float32, True, 2.0**-10),
    "float32": (torch.float32, False, 0.0),
    "float16": (torch.float16, False, torch.finfo(torch.float16).eps),
}


@contextmanager
def core_of(contender: str) -> Iterator[None]:
    """What is captured meanwhile computes with the core that the contender's name says: mma but for WGMMA."""
    before = _C.cuda_core()
    _C.set_cuda_core("wgmma" if contender == WGMMA else "mma")
    try:
        yield
    finally:
        _C.set_cuda_core(before)


@dataclass(frozen=True)
class CapturedCall:
    """A call as a CUDA graph: the same work for everybody, without the cost of launching from Python."""

    name: str
    graph: torch.cuda.CUDAGraph
    call: Callable[[], Tensor]  # and with it the memory that the graph reads
    output: Tensor

    @classmethod
    def of(cls, name: str, call: Callable[[], Tensor]) -> "CapturedCall":
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_CALLS):
                call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = call()
        return cls(name, graph, call, output)

    def milliseconds(self, flush: Tensor) -> float:
        """Of one replay that finds nothing of its operands in the cache."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        flush.zero_()
        torch.cuda._sleep(WAIT_CYCLES)
        start.record()
        self.graph.replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)


def flushing_buffer() -> Tensor:
    """Twice the size of the GPU's last cache."""
    size = torch.cuda.get_device_properties().L2_cache_size
    return torch.empty(2 * size, dtype=torch.int8, device="cuda")


def interleave(calls: Sequence[CapturedCall], rounds: int, flush: Tensor) -> dict[str, Timing]:
    """Seconds of each call over `rounds` rounds, in each of which all take their turn in another order."""
    samples: dict[str, list[float]] = {call.name: [] for call in calls}
    turns = list(calls)
    shuffle = random.Random(0).shuffle
    for _ in range(rounds):
        shuffle(turns)
        for call in turns:
            samples[call.name].append(call.milliseconds(flush) / 1e3)
    return {name: Timing.of(seconds) for name, seconds in samples.items()}


def measured_peaks(flush: Tensor, size: int = 8192) -> dict[str, float]:
    """FLOP/s of torch's own product of `size` x `size` matrices in each arithmetic, and bytes per second;
    without those that fail."""
    peaks = {}
    for name, (dtype, tf32, _) in ARITHMETICS.items():
        torch.backends.cuda.matmul.fp32_precision = "tf32" if tf32 else "ieee"
        operands = (torch.randn(size, size, device="cuda").to(dtype) for _ in range(2))
        with suppress(RuntimeError):
            peaks[name] = 2 * size**3 / _seconds(partial(torch.mm, *operands), flush)
    a, b = (torch.randint(-128, 128, (size, size), dtype=torch.int8, device="cuda") for _ in range(2))
    with suppress(RuntimeError):
        peaks["int8"] = 2 * size**3 / _seconds(partial(torch._int_mm, a, b.t()), flush)
    with suppress(RuntimeError):
        peaks["bandwidth"] = bandwidth(flush)
    return peaks


def _seconds(call: Callable[[], Tensor], flush: Tensor) -> float:
    captured = CapturedCall.of("call", call)
    return median(captured.milliseconds(flush) / 1e3 for _ in range(10))


def bandwidth(flush: Tensor, size: int = 1 << 30) -> float:
    """Bytes per second, read and written, of a copy of `size` bytes."""
    source = torch.empty(size, dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    return 2 * size / _seconds(lambda: target.copy_(source), flush)
