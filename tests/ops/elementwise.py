"""Tensors for the operations on single elements, in all sorts of strides."""

from collections.abc import Iterator

import torch
from torch import Tensor

from tests.ops.cases import fenced


def laid_out_variously(values: Tensor, fill: float) -> Iterator[tuple[str, Tensor]]:
    """Views of memory with these values, their axes in all orders, with and without gaps."""
    image = values[: 2 * 3 * 5 * 7].view(2, 3, 5, 7)
    last = torch.channels_last
    wide = values[: 2 * 4 * 6 * 14].view(2, 4, 6, 14)
    yield "a number", fenced(values[0], fill)
    yield "empty", values[:0].view(2, 0, 3)
    yield "contiguous", fenced(image, fill)
    yield "channels_last", fenced(image.contiguous(memory_format=last), fill)
    yield "width first", fenced(image.permute(0, 3, 2, 1), fill)
    yield "one channel", fenced(image[:, :1].contiguous(memory_format=last), fill)
    yield "sliced", wide[:, 1:, 1:, ::2]
    yield "sliced, channels_last", wide.contiguous(memory_format=last)[:, 1:, 1:, ::2]
    yield "expanded", values[:7].expand(2, 3, 5, 7)
    yield "five axes", values[: 2 * 3 * 5 * 7].view(2, 3, 5, 7, 1).permute(0, 4, 2, 1, 3)
    yield "transposed matrix", fenced(values[:91].view(7, 13).t(), fill)
