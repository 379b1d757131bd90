"""CUDA: our layers and cuDNN's as captured graphs, in bfloat16. Skipped without a GPU. `make gpu` compares
more, in turns."""

from functools import lru_cache

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.gpu_contests import LAYOUTS, all_contests
from bench.graph_timing import CapturedCall

CONTESTS = {contest.key: contest for contest in all_contests(wgmma=False) if contest.arithmetic == "bfloat16"}


@lru_cache(maxsize=1)
def _captured(key: str) -> dict[str, CapturedCall]:
    """All contenders, of which ours is right, by name and layout."""
    return {call.name: call for call in CONTESTS[key].calls()[0]}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that torch can use")
@pytest.mark.parametrize("key", CONTESTS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("contender", ["cnnkern", "cudnn"])
def test_gpu(benchmark: BenchmarkFixture, contender: str, layout: str, key: str) -> None:
    call = _captured(key)[f"{contender}/{layout}"]
    work = CONTESTS[key].work
    benchmark.group = key
    benchmark.extra_info |= {"flops": work.flops, "bytes": work.bytes, "gpu": torch.cuda.get_device_name()}

    def replay() -> None:
        call.graph.replay()
        torch.cuda.synchronize()

    benchmark(replay)
