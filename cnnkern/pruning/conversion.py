"""From zeros to a layer without them.

Pruning knows nothing of kernels, and so not which layer leaves columns out: the front of the package, which
knows both sides, says it with `convert_with` when it is imported.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from cnnkern.modules import unwrapped

from .layers import column_matrices, has_weight

Model = TypeVar("Model", bound=nn.Module)
SparseLayer = Callable[[nn.Conv2d, Tensor], nn.Module]

_sparse_layer: SparseLayer


def convert_with(sparse_layer: SparseLayer) -> None:
    """Make `convert` call `sparse_layer(conv, columns)`, with columns as `kept_columns` gives them."""
    global _sparse_layer
    _sparse_layer = sparse_layer


def kept_columns(conv: nn.Conv2d) -> Tensor:
    """The columns of a convolution's weight that are not all zero: sorted indices (nnz), int32.

    With G > 1 groups they are (G, nnz), each group's own; where one has fewer than another, zero columns,
    the first ones, fill it up.
    """
    used = (column_matrices(conv.weight.detach(), conv.groups) != 0).any(dim=1)
    count = int(used.sum(dim=1).max())
    first = used.byte().sort(dim=1, descending=True, stable=True).indices[:, :count]
    columns = first.sort(dim=1).values.to(torch.int32)
    return columns if conv.groups > 1 else columns[0]


def convert(model: Model) -> Model | nn.Module:
    """A copy of the model in which every convolution that has zero columns is a `cnnkern.ColumnSparseConv2d`.

    The zeros say what was pruned, by a `Pruner`, by the group lasso, or before the model was loaded. The rest
    is copied as it is, among it subclasses of `torch.nn.Conv2d`, which may compute something else, and
    weights that are computed from other parameters. Hooks on a converted convolution are lost. Whether the
    layer is faster is for a clock to say: with few zeros it is not.
    """
    model = unwrapped(model)
    replaced = {}
    for module in model.modules():
        if type(module) is nn.Conv2d and has_weight(module):
            columns = kept_columns(module)
            if columns.shape[-1] < module.weight[0].numel():
                replaced[id(module)] = _sparse_layer(module, columns)
    # wherever a module holds one of these convolutions, deepcopy takes what was "copied" already
    return copy.deepcopy(model, replaced)
