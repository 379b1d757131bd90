"""The convolutions of a model, and their weights as matrices whose columns are pruned.

A column (c, i, j) is what an output channel multiplies with one entry of a patch, over all K/G output
channels of a group: W[k, c, i, j] for every k. Its index is (c·kH + i)·kW + j, with c counted within the
group; there are C/G·kH·kW of them in each of the G groups.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from cnnkern import modules
from cnnkern.modules import unwrapped


def convolutions(model: nn.Module, layers: Iterable[str] | None = None) -> dict[str, nn.Conv2d]:
    """The `torch.nn.Conv2d` that `layers` name ("features.3"), in that order, or all that the model has.

    Raises ValueError for a name that no convolution has, for a weight that is not a parameter of its own
    (as under `torch.nn.utils.parametrize`), and if there is no convolution at all.
    """
    found = modules.convolutions(unwrapped(model), layers)
    for name, conv in found.items():
        if not has_weight(conv):
            raise ValueError(f"layers: the weight of {name!r} is computed from others and cannot be pruned")
    return found


def has_weight(conv: nn.Conv2d) -> bool:
    """Whether the weight is a parameter of the convolution, and not computed from others at each call."""
    return conv._parameters.get("weight") is not None


def column_matrices(weight: Tensor, groups: int = 1) -> Tensor:
    """A weight (K, C/G, kH, kW) in any memory format as matrices (G, K/G, C/G·kH·kW), one a group."""
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def over_weight(columns: Tensor, conv: nn.Conv2d) -> Tensor:
    """Values of columns (G, C/G·kH·kW), shaped to be broadcast over `by_group` of the weight."""
    return columns.to(conv.weight.device).view(conv.groups, 1, -1, *conv.kernel_size)


def by_group(weight: Tensor, conv: nn.Conv2d) -> Tensor:
    """A view (G, K/G, C/G, kH, kW) of a tensor that is shaped like the convolution's weight."""
    return weight.unflatten(0, (conv.groups, -1))
