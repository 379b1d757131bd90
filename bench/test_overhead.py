"""What a call costs around its kernel."""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench import overhead


@pytest.mark.parametrize("mode", overhead.MODES)
@pytest.mark.parametrize("contender", overhead.NAMES)
def test_overhead(benchmark: BenchmarkFixture, mode: str, contender: str) -> None:
    calls = {call.name: call.run for call in overhead.contenders()}
    benchmark.group = f"overhead: {mode}"
    with overhead.MODES[mode]():
        benchmark(calls[contender])
