"""int8_max_pool2d gives the integers of the reference, in the memory format of its input, on every ISA."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cnnkern import ops, reference
from tests.ops.cases import LAYOUTS, laid_out
from tests.ops.integers import DTYPES, integers

# Windows of every sort: those of networks; with gaps between them; from one value to more than an image.
GEOMETRIES: list[dict[str, Any]] = [
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 2, "ceil_mode": True},
    {"kernel_size": 3, "stride": 1, "padding": 1},
    {"kernel_size": 5, "stride": 1, "padding": 2},
    {"kernel_size": 3},
    {"kernel_size": 1, "stride": 2},
    {"kernel_size": 2, "stride": (3, 5), "padding": 1, "ceil_mode": True},
    {"kernel_size": (3, 2), "stride": (2, 3), "padding": (1, 1), "dilation": (2, 1), "ceil_mode": True},
    {"kernel_size": (2, 4), "stride": (1, 4), "padding": (1, 2), "dilation": (3, 2), "ceil_mode": True},
    {"kernel_size": (1, 4), "stride": (2, 1), "padding": (0, 2)},
    {"kernel_size": 2, "stride": 1, "padding": 1, "dilation": 4, "ceil_mode": True},
    {"kernel_size": 23, "stride": 2, "padding": 11},
    {"kernel_size": 100_001, "stride": 3, "padding": 50_000},
    {"kernel_size": 2, "stride": 2**31 - 1, "padding": 1, "ceil_mode": True},
]
# One below and above vectors, and two of them; an image of one pixel; rows that end the tensor.
IMAGES = [
    *((2, 3, 13, width) for width in (1, 7, 31, 33, 63, 64, 65, 129)),
    *((1, channels, 6, 5) for channels in (15, 16, 31, 32, 33, 63, 64, 65, 130)),
    (1, 1, 1, 1),
    (2, 3, 1, 1),
    (3, 1, 5, 7),
]


def expected(x: Tensor, geometry: dict[str, Any]) -> Tensor | None:
    """Of the reference; None where torch knows no such pooling."""
    try:
        return reference.int8_max_pool2d(x, **geometry)
    except RuntimeError:
        return None


def pooled(x: Tensor, **geometry: Any) -> Tensor | None:
    """As by the operation; None where it refuses."""
    try:
        return ops.int8_max_pool2d(x, **geometry)
    except ValueError:
        return None


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_every_window_has_the_maximum_of_the_reference(
    geometry: dict[str, Any], layout: str, int8_isa: str
) -> None:
    for index, image in enumerate(IMAGES):
        dtype = DTYPES[index % 2]
        values = integers(image, dtype)
        x = laid_out(values, layout, torch.iinfo(dtype).max)
        y = pooled(x, **geometry)
        correct = expected(values, geometry)
        assert (y is None) == (correct is None), image
        if y is not None:
            assert y.dtype == dtype
            assert torch.equal(y, correct), image
            assert y.stride() == F.max_pool2d(x.float(), **geometry).stride(), image


@pytest.mark.parametrize("dtype", DTYPES)
def test_padding_never_is_the_greatest(dtype: torch.dtype, int8_isa: str) -> None:
    least = torch.iinfo(dtype).min
    for channels in (1, 3, 70):
        x = torch.full((1, channels, 5, 5), least, dtype=dtype)
        x[..., 2, 2] = least + 1
        for padded in (x, x.contiguous(memory_format=torch.channels_last)):
            y = ops.int8_max_pool2d(padded, 3, stride=2, padding=1)
            assert torch.equal(y, reference.int8_max_pool2d(x, 3, stride=2, padding=1))
            only_padding = ops.int8_max_pool2d(padded[..., :4, :4], 2, padding=1, dilation=5)
            assert torch.equal(only_padding, torch.full((1, channels, 1, 1), least, dtype=dtype))


@pytest.mark.parametrize("size", [2**31 - 1, 3 * 10**8 + 1])
@pytest.mark.parametrize("channels", [1, 64])
def test_a_window_far_larger_than_the_image_costs_no_more_than_the_image(channels: int, size: int) -> None:
    x = integers((1, channels, 5, 7), torch.uint8)
    for image in (x, x.contiguous(memory_format=torch.channels_last)):
        y = ops.int8_max_pool2d(image, size, stride=1, padding=size // 2)
        assert torch.equal(y, x.amax((2, 3), keepdim=True).expand_as(y))
        assert y.shape[2:] == (5, 7)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_an_empty_batch_has_an_empty_result(memory_format: torch.memory_format) -> None:
    x = torch.empty(0, 3, 8, 6, dtype=torch.uint8).contiguous(memory_format=memory_format)
    assert ops.int8_max_pool2d(x, 3, stride=2).shape == (0, 3, 3, 2)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("image", [(1, 3, 301, 307), (3, 65, 57, 61)])
def test_is_shared_between_threads(
    image: tuple[int, ...], memory_format: torch.memory_format, threads: int
) -> None:
    x = integers(image, torch.int8).contiguous(memory_format=memory_format)
    for geometry in GEOMETRIES[:7]:
        assert torch.equal(ops.int8_max_pool2d(x, **geometry), reference.int8_max_pool2d(x, **geometry)), (
            geometry
        )


def test_compiles_without_a_break() -> None:
    x = integers((2, 3, 10, 14), torch.uint8).contiguous(memory_format=torch.channels_last)
    compiled = torch.compile(ops.int8_max_pool2d, fullgraph=True, backend="aot_eager", dynamic=True)
    for geometry in GEOMETRIES[:5]:
        assert torch.equal(compiled(x, **geometry), ops.int8_max_pool2d(x, **geometry))
