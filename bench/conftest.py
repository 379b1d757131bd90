"""What the pytest-benchmark suites share: threads, checked contests, and what is kept beside the times."""

from collections.abc import Callable, Iterator
from functools import lru_cache

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench import contests
from bench.results import environment
from bench.timing import thread_count
from cnnkern import _C

PEAK_SECONDS = 0.02


def pytest_configure(config: pytest.Config) -> None:
    if config.option.benchmark_autosave is None:
        config.option.benchmark_autosave = "suites"


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict) -> None:
    machine_info["cnnkern"] = environment()


@pytest.fixture(params=sorted({1, torch.get_num_threads()}), ids="threads-{}".format)
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    with thread_count(request.param):
        yield request.param


@pytest.fixture
def measure(benchmark: BenchmarkFixture, threads: int) -> Callable[..., None]:
    """measure(contender, contests.X, ...) times one contender of contests.X(...), all of which are right."""

    def run(contender: str, build: Callable[..., contests.Contest], *arguments: object) -> None:
        contest = _checked(threads, build, *arguments)
        work = contest.work
        benchmark.group = f"{work.suite}: {work.title}, batch {work.batch}, {threads} threads"
        peak = _C.fma_peak(threads, PEAK_SECONDS)
        with contest.mode():
            benchmark(next(call.run for call in contest.contenders if call.name == contender))
        benchmark.extra_info |= {"threads": threads, "flops": work.flops, "bytes": work.bytes}
        if benchmark.enabled:
            seconds = benchmark.stats.stats.median
            gflops = work.flops / seconds / 1e9
            benchmark.extra_info |= {
                "gflops": gflops,
                "share_of_peak": gflops / peak,
                "gbs": work.bytes / seconds / 1e9,
            }

    return run


@lru_cache(maxsize=1)
def _checked(threads: int, build: Callable[..., contests.Contest], *arguments: object) -> contests.Contest:
    contest = build(*arguments)
    contest.check()
    return contest
