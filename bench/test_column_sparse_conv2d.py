"""Column-sparse convolution by density: ColumnSparseConv2d in both layouts."""

from collections.abc import Callable

import pytest

from bench import contests
from bench.layers import BATCHES, DENSITIES, LAYERS, Layer


@pytest.mark.parametrize("layer", LAYERS, ids=str)
@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("batch", BATCHES, ids="batch-{}".format)
@pytest.mark.parametrize("contender", contests.COLUMN_SPARSE)
def test_column_sparse_conv2d(
    measure: Callable[..., None], layer: Layer, density: float, batch: int, contender: str
) -> None:
    measure(contender, contests.column_sparse, layer, density, batch)
