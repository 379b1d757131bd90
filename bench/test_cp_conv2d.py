"""CP convolution: four stock convolutions and CPConv2d in every layout."""

from collections.abc import Callable

import pytest

from bench import contests
from bench.layers import BATCHES, RANKED, Layer


@pytest.mark.parametrize(("layer", "rank"), RANKED, ids=str)
@pytest.mark.parametrize("batch", BATCHES, ids="batch-{}".format)
@pytest.mark.parametrize("contender", contests.FORWARD)
def test_cp_conv2d(measure: Callable[..., None], layer: Layer, rank: int, batch: int, contender: str) -> None:
    measure(contender, contests.cp, layer, rank, batch)
