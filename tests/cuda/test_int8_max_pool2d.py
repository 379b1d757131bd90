"""The CUDA kernels of int8_max_pool2d give the integers of the reference, in either layout."""

from typing import Any

import pytest
import torch

from tests.cuda.platforms import Platform
from tests.ops.cases import LAYOUTS, laid_out
from tests.ops.integers import DTYPES, integers
from tests.ops.test_int8_max_pool2d import GEOMETRIES, expected

# one below and above the 4 channels or pixels of a thread, and more than the 256 threads of a block
IMAGES = [
    *((2, channels, 9, 11) for channels in (1, 3, 4, 5, 16, 33)),
    *((1, 3, 8, width) for width in (1, 7, 8, 9, 16, 67)),
    (1, 1, 1, 1),
]


def numbers(geometry: dict[str, Any]) -> list[Any]:
    given = {"stride": geometry["kernel_size"], "padding": 0, "dilation": 1, **geometry}
    pairs = [given[name] for name in ("kernel_size", "stride", "padding", "dilation")]
    flat = [number for p in pairs for number in ((p, p) if isinstance(p, int) else p)]
    return [flat, given.get("ceil_mode", False)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_every_window_has_the_maximum_of_the_reference(
    on: Platform, geometry: dict[str, Any], layout: str
) -> None:
    for index, image in enumerate(IMAGES):
        dtype = DTYPES[index % 2]
        values = integers(image, dtype)
        correct = expected(values, geometry)
        if correct is None:
            continue
        x = laid_out(values, layout, torch.iinfo(dtype).max)
        for aligned in (x, x.clone()):
            y = on.operations.int8_max_pool2d(on.take(aligned), *numbers(geometry)).cpu()
            assert torch.equal(y, correct), image


def test_an_empty_batch_has_an_empty_result(on: Platform) -> None:
    x = on.take(torch.empty(0, 3, 8, 6, dtype=torch.uint8))
    assert on.operations.int8_max_pool2d(x, *numbers({"kernel_size": 2})).shape == (0, 3, 4, 3)


def test_wrong_arguments_are_refused(on: Platform) -> None:
    x = on.take(torch.zeros(2, 3, 5, 5, dtype=torch.uint8))
    with pytest.raises(ValueError, match="x: expected uint8 or int8"):
        on.operations.int8_max_pool2d(x.float(), *numbers({"kernel_size": 2}))
    with pytest.raises(ValueError, match="padding: expected at most half of the kernel"):
        on.operations.int8_max_pool2d(x, *numbers({"kernel_size": 2, "padding": 2}))
