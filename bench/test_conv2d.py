"""Dense convolution: nn.Conv2d and Im2colConv2d in every layout."""

from collections.abc import Callable

import pytest

from bench import contests
from bench.layers import BATCHES, LAYERS, Layer


@pytest.mark.parametrize("layer", LAYERS, ids=str)
@pytest.mark.parametrize("batch", BATCHES, ids="batch-{}".format)
@pytest.mark.parametrize("contender", contests.FORWARD)
def test_conv2d(measure: Callable[..., None], layer: Layer, batch: int, contender: str) -> None:
    measure(contender, contests.dense, layer, batch)
