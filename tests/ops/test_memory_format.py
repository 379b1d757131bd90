"""An output has the memory format of its input; where shapes leave that open, what torch's conv2d returns."""

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cnnkern import ops

# C = 1, H = W = 1 and the like, where the strides of several formats coincide, and shapes where they do not
SHAPES = list(itertools.product((1, 2), (1, 2, 16), (1, 2, 7), (1, 3)))


def variants(n: int, c: int, h: int, w: int) -> Iterator[tuple[str, Tensor]]:
    """Inputs of one shape with all sorts of strides."""
    x = torch.randn(n, c, h, w)
    last = torch.channels_last
    yield "contiguous", x
    yield "channels_last", x.contiguous(memory_format=last)
    yield "channels_last by to()", x.to(memory_format=last)
    yield "channels_last by permute()", torch.randn(n, h, w, c).permute(0, 3, 1, 2)
    yield "sliced columns", torch.randn(n, c, h, 2 * w)[..., ::2]
    yield (
        "sliced columns, channels_last",
        torch.randn(n, c, h, 2 * w).contiguous(memory_format=last)[..., ::2],
    )
    yield "sliced channels", torch.randn(n, c + 2, h, w)[:, 1 : 1 + c]
    yield "sliced channels, channels_last", torch.randn(n, c + 2, h, w).to(memory_format=last)[:, 1 : 1 + c]
    yield "width first", torch.randn(n, w, h, c).permute(0, 3, 2, 1)
    yield "rows and columns swapped", torch.randn(n, c, w, h).transpose(2, 3)
    yield "expanded", torch.randn(1, c, 1, 1).expand(n, c, h, w)


def formats(y: Tensor) -> tuple[bool, bool]:
    return y.is_contiguous(), y.is_contiguous(memory_format=torch.channels_last)


def conv2d(x: Tensor, channels: int) -> Tensor:
    return ops.conv2d(x, x.new_empty(channels, x.shape[1], 1, 1))


def cp_conv2d(x: Tensor, channels: int) -> Tensor:
    return ops.cp_conv2d(
        x, x.new_empty(3, x.shape[1]), x.new_empty(3, 1), x.new_empty(3, 1), x.new_empty(channels, 3)
    )


def column_sparse_conv2d(x: Tensor, channels: int) -> Tensor:
    columns = torch.zeros(1, dtype=torch.int32, device=x.device)
    return ops.column_sparse_conv2d(x, x.new_empty(channels, 1), columns, kernel_size=1)


def perforated_conv2d(x: Tensor, channels: int) -> Tensor:
    mask = torch.ones(x.shape[2:], dtype=torch.bool, device=x.device)
    return ops.perforated_conv2d(x, x.new_empty(channels, x.shape[1], 1, 1), mask)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("operation", [conv2d, cp_conv2d, column_sparse_conv2d, perforated_conv2d])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_output_format_is_that_of_torch(
    shape: tuple[int, int, int, int], operation: Callable[[Tensor, int], Tensor], device: str
) -> None:
    for name, x in variants(*shape):
        ours = x if device == "cpu" else torch.empty_strided(x.shape, x.stride(), device="meta")
        for channels in (1, 3, 16):
            expected = F.conv2d(x, torch.randn(channels, shape[1], 1, 1))
            y = operation(ours, channels)
            assert formats(y) == formats(expected), f"{name} {tuple(x.stride())}, {channels} channels"


def test_channels_last_weights_do_not_change_the_output_format() -> None:
    weight = torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last)
    assert formats(ops.conv2d(torch.randn(2, 3, 5, 7), weight)) == (True, False)
