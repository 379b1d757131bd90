"""The patch matrix: F.unfold and ops.im2col, which only move bytes."""

from collections.abc import Callable

import pytest

from bench import contests
from bench.layers import BATCHES, LAYERS, Layer


@pytest.mark.parametrize("layer", LAYERS, ids=str)
@pytest.mark.parametrize("batch", BATCHES, ids="batch-{}".format)
@pytest.mark.parametrize("contender", contests.STEPS)
def test_im2col(measure: Callable[..., None], layer: Layer, batch: int, contender: str) -> None:
    measure(contender, contests.im2col, layer, batch)
