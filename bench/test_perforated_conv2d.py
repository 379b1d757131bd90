"""Perforated convolution: the stock form and PerforatedConv2d in every layout, and the dense layer."""

from collections.abc import Callable

import pytest

from bench import contests
from bench.contests import Contest
from bench.layers import BATCHES, LAYERS, RATES, Layer


def contest(layer: Layer, batch: int, index: int) -> Contest:
    return contests.perforated(layer, batch)[index]


@pytest.mark.parametrize("layer", [layer for layer in LAYERS if layer.output_size != (1, 1)], ids=str)
@pytest.mark.parametrize("batch", BATCHES, ids="batch-{}".format)
@pytest.mark.parametrize("index", range(len(RATES) + 2), ids=["dense", *map("rate-{}".format, RATES), "grid"])
@pytest.mark.parametrize("contender", contests.FORWARD)
def test_perforated_conv2d(
    measure: Callable[..., None], layer: Layer, batch: int, index: int, contender: str
) -> None:
    measure(contender, contest, layer, batch, index)
