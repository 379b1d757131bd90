"""From masks to a model that computes what they keep.

Perforation knows nothing of kernels, and so not which layer leaves outputs out: the front of the package,
which knows both sides, says it with `convert_with` when it is imported.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from cnnkern.modules import convolutions

PerforatedLayer = Callable[[nn.Conv2d, Tensor], nn.Module]

_perforated_layer: PerforatedLayer


def convert_with(perforated_layer: PerforatedLayer) -> None:
    """Make `convert` call `perforated_layer(conv, mask)`."""
    global _perforated_layer
    _perforated_layer = perforated_layer


def convert(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the model in which the convolutions that `masks` name are `cnnkern.PerforatedConv2d`.

    Args:
        model: any; it is not changed.
        masks: {name of a `torch.nn.Conv2d`: bool (oH, oW)}. One that keeps all leaves its layer as it is.

    Hooks on a converted convolution are lost. Whether the layer is faster is for a clock to say.

    Raises:
        ValueError: a name that no convolution has, or a mask that keeps nothing.
        TypeError: a mask that is no tensor of bools.
    """
    if not masks:
        return copy.deepcopy(model)
    replaced = {
        id(conv): _perforated_layer(conv, masks[name])
        for name, conv in convolutions(model, masks).items()
        if not _keeps_all(name, masks[name])
    }
    # wherever a module holds one of these convolutions, deepcopy takes what was "copied" already
    return copy.deepcopy(model, replaced)


def _keeps_all(name: str, mask: Tensor) -> bool:
    if not isinstance(mask, Tensor) or mask.dtype is not torch.bool:
        kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"masks: expected a tensor of torch.bool for {name!r}, got {kind}")
    return bool(mask.all())
