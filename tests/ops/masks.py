"""The masks that perforated convolutions are tested with."""

import torch
from torch import Tensor

from tests.ops.cases import Case

KINDS = ("half", "few", "one", "all", "bands", "each image")


def output_size(case: Case) -> tuple[int, int]:
    """(oH, oW)."""
    return tuple(
        (size + 2 * padding - dilation * (taps - 1) - 1) // stride + 1
        for size, taps, stride, padding, dilation in zip(
            case.x[2:], case.kernel, case.stride, case.padding, case.dilation, strict=True
        )
    )


def mask_of(case: Case, kind: str) -> Tensor:
    """A mask (oH, oW) of one of KINDS, or (N, oH, oW) for "each image"; each keeps something."""
    size = output_size(case)
    if kind == "all":
        return torch.ones(size, dtype=torch.bool)
    if kind == "bands":  # rows that see nothing for long, between rows that are whole
        mask = (torch.arange(size[0]) % 7 == size[0] // 2 % 7)[:, None].expand(size).clone()
    elif kind == "each image":
        mask = torch.rand(case.x[0], *size) < torch.rand(case.x[0], 1, 1)
    else:
        mask = torch.rand(size) < {"half": 0.5, "few": 0.1, "one": 0.0}[kind]
    mask[..., size[0] // 2, size[1] // 3] = True
    return mask
