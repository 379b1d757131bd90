"""int8: torch's quantized engines and ours, over the layer table and over matrix sizes."""

from collections.abc import Callable

import pytest

from bench import int8
from bench.layers import BATCHES, LAYERS, Layer


@pytest.mark.parametrize("layer", LAYERS, ids=str)
@pytest.mark.parametrize("batch", BATCHES, ids="batch-{}".format)
@pytest.mark.parametrize("contender", int8.CONTENDERS)
def test_int8_conv2d(measure: Callable[..., None], layer: Layer, batch: int, contender: str) -> None:
    measure(contender, int8.convolution, layer, batch)


@pytest.mark.parametrize("size", int8.SIZES, ids=str)
@pytest.mark.parametrize("contender", int8.CONTENDERS[:-1])
def test_int8_linear(measure: Callable[..., None], size: tuple[int, int, int], contender: str) -> None:
    measure(contender, int8.gemm, *size)
