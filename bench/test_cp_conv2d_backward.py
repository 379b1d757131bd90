"""A training step of a CP layer, forward and all gradients: its time and its peak extra memory."""

from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench import contests
from bench.layers import BATCHES, RANKED, Layer
from bench.training_memory import training_memory


@pytest.mark.parametrize(("layer", "rank"), RANKED, ids=str)
@pytest.mark.parametrize("batch", BATCHES, ids="batch-{}".format)
@pytest.mark.parametrize("contender", contests.STEPS)
def test_cp_conv2d_backward(
    measure: Callable[..., None],
    benchmark: BenchmarkFixture,
    threads: int,
    layer: Layer,
    rank: int,
    batch: int,
    contender: str,
) -> None:
    measure(contender, contests.training, layer, rank, batch)
    benchmark.extra_info["extra_bytes"] = training_memory(layer, rank, batch, contender, threads)
