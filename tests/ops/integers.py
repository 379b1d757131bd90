"""Arguments of the int8 operations, in every value of their types."""

import math
from typing import Any

import torch
from torch import Tensor

from tests.ops.cases import Case

DTYPES = (torch.uint8, torch.int8)


def integers(size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Every value of the type, at random."""
    limits = torch.iinfo(dtype)
    return torch.randint(limits.min, limits.max + 1, size, dtype=dtype)


def conv2d_arguments(case: Case, dtype: torch.dtype) -> tuple[list[Tensor | None], dict[str, Any]]:
    """x, weight and bias, and the options of int8_conv2d without an out_scale."""
    tensors = [integers(case.x, dtype), integers(case.weight_size, torch.int8)]
    bias = torch.randn(case.channels) if case.bias else None
    zero_point = 3 if dtype is torch.int8 else 131
    scales = {"x_scale": 0.02, "x_zero_point": zero_point, "weight_scale": torch.rand(case.channels) + 0.01}
    return [*tensors, bias], {**scales, **case.options}


def out_scale_of(case: Case) -> float:
    """A scale at which some outputs are clamped: random sums are of √(products) · 128 · 74, x_scale 0.02."""
    return math.sqrt(math.prod(case.weight_size[1:])) * 128 * 74 * 0.02 / 150


def varied_arguments(case: Case, index: int) -> tuple[list[Tensor | None], dict[str, Any]]:
    """As above, with the dtype of x, the activation and what comes out alternating from index to index."""
    tensors, options = conv2d_arguments(case, DTYPES[index % 2])
    if index // 4 % 2:
        options |= {"out_scale": out_scale_of(case), "out_zero_point": 17}
    options["activation"] = (None, "relu")[index // 2 % 2]
    return tensors, options
