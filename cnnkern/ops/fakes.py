"""What the fake (meta) kernels of the convolutions return: tensors without values."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cnnkern.ops.arguments import memory_format


def empty_output(x: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    """An output of `shape` (N, K, oH, oW) in the memory format and device of `x`, and in its dtype unless
    another is given."""
    return torch.empty(shape, dtype=dtype or x.dtype, device=x.device, memory_format=memory_format(x))


def empty_gradients(
    x: Tensor, weight: Tensor, out_channels: int, output_mask: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, weight and bias, in this order; one that nobody asked for has no elements."""
    for_x, for_weight, for_bias = output_mask
    return (
        torch.empty_like(x, memory_format=memory_format(x)) if for_x else x.new_empty(0),
        x.new_empty(weight.shape if for_weight else 0),
        x.new_empty(out_channels if for_bias else 0),
    )
