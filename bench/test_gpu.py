"""CUDA: our layers and products, cuDNN's and torch's, as captured graphs, one after the other and with warm
caches. Skipped without a GPU. `make gpu` times the same contests in turns, and both of our cores.

    pytest bench/test_gpu.py -k "AlexNet and batch-16 and tf32"
"""

from functools import lru_cache

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.gpu_benchmarks import in_order
from bench.graph_timing import CapturedCall

CONTESTS = {contest.key: contest for contest in in_order(wgmma=False)}
CALLS = [(key, name) for key, contest in CONTESTS.items() for name in contest.contenders]


def _id(text: str) -> str:
    return text.replace(",", "").replace(" ", "-")


@lru_cache(maxsize=1)
def _captured(key: str) -> dict[str, CapturedCall]:
    """All contenders, of which ours is right, by name and layout."""
    return {call.name: call for call in CONTESTS[key].calls()[0]}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that torch can use")
@pytest.mark.parametrize(("key", "name"), CALLS, ids=_id)
def test_gpu(benchmark: BenchmarkFixture, key: str, name: str) -> None:
    call = _captured(key)[name]
    work = CONTESTS[key].work
    benchmark.group = key
    benchmark.extra_info |= {"flops": work.flops, "bytes": work.bytes, "gpu": torch.cuda.get_device_name()}

    def replay() -> None:
        call.graph.replay()
        torch.cuda.synchronize()

    benchmark(replay)
