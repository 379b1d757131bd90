"""Convolution with the kept columns of a pruned weight matrix, as a layer.

Lebedev, Lempitsky: Fast ConvNets Using Group-wise Brain Damage, CVPR 2016.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnkern.nn.convolution import (
    Convolution2d,
    arguments_of,
    check_conv,
    dense_conv,
    empty_parameter,
    parameter_like,
)
from cnnkern.ops import column_sparse_conv2d
from cnnkern.ops.arguments import IntPair, Pair
from cnnkern.pruning import Criterion, column_norms, scores_by, strongest


class ColumnSparseConv2d(Convolution2d):
    """A convolution of which only some columns of the weight matrix (K, C/groups·kH·kW) are left.

    The arguments and attributes are those of `torch.nn.Conv2d`, and `columns`: the indices (c·kH + i)·kW + j
    of the kept columns, strictly increasing, (nnz); with groups (groups, nnz), c counted within the group.
    There may be none. The learnable tensors are weight (K, nnz) and bias (K); `columns` is a buffer, int32.
    See `repack` for when to call it.

    Raises:
        ValueError: a number that cannot be; columns that are not sorted, or outside the matrix.
        TypeError: an argument that is no int, no pair of ints, or no tensor or sequence of ints.
    """

    own_arguments = ("columns",)
    packed_parameters = ("weight",)
    packed_buffers = ("columns",)
    packed_operation = torch.ops.cnnkern.column_sparse_conv2d_packed.default

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntPair,
        stride: IntPair = 1,
        padding: IntPair | str = 0,
        dilation: IntPair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        columns: Tensor | Sequence[Any],
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode
        )
        kept = checked_columns(columns, self.groups, self.total_columns)
        self.weight = empty_parameter((out_channels, kept.shape[-1]), device, dtype)
        with torch.inference_mode(False):  # see empty_parameter
            self.register_buffer("columns", kept.to(self.weight.device, copy=True))
        self._add_bias(bias, device, dtype)
        self.reset_parameters()

    @property
    def total_columns(self) -> int:
        """Columns of a group before pruning: C/groups·kH·kW."""
        return self.in_channels // self.groups * self.kernel_size[0] * self.kernel_size[1]

    @property
    def packed_last_arguments(self) -> tuple[Any, ...]:
        return (self.columns,)

    def reset_parameters(self) -> None:
        """Draw new weights, such that the output has the variance that `torch.nn.Conv2d`'s initial weights
        give: uniform up to 1/√nnz, as many as the terms of a sum are. The columns stay."""
        bound = max(1, self.weight.shape[1]) ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    @classmethod
    def from_conv(
        cls,
        conv: nn.Conv2d,
        *,
        columns: Tensor | Sequence[Any] | None = None,
        density: float | None = None,
        criterion: str | Criterion = "l2",
    ) -> "ColumnSparseConv2d":
        """The layer with the given columns of the weight of `conv`, or with the strongest, on its device.

        Args:
            conv: a trained convolution; it is not changed, and its bias is copied.
            columns: what to keep, as the constructor takes it; or
            density: the share to keep in each group, 0 to 1; above 0 it leaves one column at least.
            criterion: what makes a column strong: "l2", its norm over the group's output channels, or a
                function of `cnnkern.pruning`, such as `fisher(lambda _, batch: loss(net(batch)), batches)`;
                it is called with `conv` in the place of the model.
        """
        check_conv(conv)
        if (columns is None) == (density is None):
            raise ValueError(
                f"columns, density: expected one of them, got columns={columns!r}, density={density!r}"
            )
        weight = conv.weight.detach().reshape(conv.groups, conv.out_channels // conv.groups, -1)
        if columns is None:
            columns = _strongest(conv, density, criterion)
            columns = columns if conv.groups > 1 else columns[0]
        layer = cls(**arguments_of(conv), columns=columns, device="meta", dtype=conv.weight.dtype)
        kept = checked_columns(columns, conv.groups, weight.shape[2]).to(conv.weight.device)
        index = kept.long().view(conv.groups, 1, -1).expand(-1, weight.shape[1], -1)
        layer.weight = parameter_like(weight.gather(2, index).flatten(0, 1), conv.weight)
        with torch.inference_mode(False):
            layer.columns = kept.clone()
        if conv.bias is not None:
            layer.bias = parameter_like(conv.bias, conv.bias)
        return layer.train(conv.training)

    def to_conv(self) -> nn.Conv2d:
        """The dense `torch.nn.Conv2d` that computes the same: zeros in place of the pruned columns."""
        return dense_conv(self, self._dense_weight(), self.weight)

    def to_stock(self) -> nn.Module:
        """The fastest stock module that computes the same: the dense convolution of `to_conv`, or, where
        input channels are left out altogether, the selection of the others and a convolution of these."""
        used = self._used_channels()
        if self.groups > 1 or not 0 < len(used) < self.in_channels:
            return self.to_conv()
        arguments = {**arguments_of(self), "in_channels": len(used)}
        conv = nn.Conv2d(**arguments, device="meta", dtype=self.weight.dtype)
        conv.weight = parameter_like(self._dense_weight()[:, used], self.weight)
        if self.bias is not None:
            conv.bias = parameter_like(self.bias, self.bias)
        return nn.Sequential(SelectChannels(used), conv).train(self.training)

    def stock_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What the layer computes with another weight (K, nnz) and bias, by a stock convolution with zeros in
        place of the pruned columns; differentiable, in any dtype."""
        x, padding = self._split_and_pad(x)
        dense = with_zeros(weight, self.columns, self.groups, self.kernel_size, self.total_columns)
        return F.conv2d(x, dense, bias, self.stride, padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, columns={self.columns.shape[-1]} of {self.total_columns}"

    def _dense_weight(self) -> Tensor:
        return with_zeros(
            self.weight.detach(), self.columns, self.groups, self.kernel_size, self.total_columns
        )

    def _used_channels(self) -> Tensor:
        return (self.columns // (self.kernel_size[0] * self.kernel_size[1])).unique().long()

    def _convolve(self, x: Tensor, padding: Pair) -> Tensor:
        # the operation knows how many channels there are from x alone
        if isinstance(x, Tensor) and x.dim() == 4 and x.shape[1] != self.in_channels:
            raise ValueError(
                f"x: expected {self.in_channels} channels ({self.groups} groups of "
                f"{self.in_channels // self.groups}), got {x.shape[1]}"
            )
        return column_sparse_conv2d(
            x,
            self.weight,
            self.columns,
            self.bias,
            kernel_size=self.kernel_size,
            stride=self.stride,
            padding=padding,
            dilation=self.dilation,
            groups=self.groups,
        )

    def _pack(self) -> tuple[Tensor, tuple[int, ...]]:
        packed = torch.ops.cnnkern.column_sparse_conv2d_pack.default(
            self.weight, self.columns, self.kernel_size, self.groups
        )
        return packed, (self.out_channels, self.in_channels // self.groups, *self.kernel_size)


class SelectChannels(nn.Module):
    """The channels `index` (n) of images (N, C, H, W)."""

    def __init__(self, index: Tensor) -> None:
        super().__init__()
        self.register_buffer("index", index)

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(-3, self.index)


def with_zeros(weight: Tensor, columns: Tensor, groups: int, kernel_size: Pair, total: int) -> Tensor:
    """The dense weight (K, C/groups, kH, kW) of the kept columns `weight` (K, nnz) among `total`."""
    by_group = weight.view(groups, weight.shape[0] // groups, -1)
    index = columns.long().view(groups, 1, -1).expand(-1, by_group.shape[1], -1)
    dense = by_group.new_zeros(*by_group.shape[:2], total).scatter(2, index, by_group)
    return dense.view(weight.shape[0], -1, *kernel_size)


def checked_columns(columns: Any, groups: int, total: int) -> Tensor:
    """`columns` as int32, if they are strictly increasing indices below `total` in each group."""
    if not isinstance(columns, Tensor):
        columns = _tensor_of(columns)
    if columns.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"columns: expected int32, got {columns.dtype}")
    if columns.dim() != (2 if groups > 1 else 1) or (groups > 1 and len(columns) != groups):
        expected = f"({groups}, nnz)" if groups > 1 else "(nnz)"
        raise ValueError(f"columns: expected the shape {expected}, got {tuple(columns.shape)}")
    if columns.numel() and not columns.is_meta:
        if not (columns.diff(dim=-1) > 0).all():
            raise ValueError("columns: expected strictly increasing indices")
        least, most = columns.min().item(), columns.max().item()
        if least < 0 or most >= total:
            raise ValueError(f"columns: expected indices from 0 to {total - 1}, got {least} to {most}")
    return columns.to(torch.int32)


def _tensor_of(columns: Any) -> Tensor:
    """Columns that are a sequence of ints, or of sequences of as many ints each."""
    if not isinstance(columns, Sequence) or isinstance(columns, str):
        raise TypeError(f"columns: expected a tensor or a sequence of ints, got {columns!r}")
    try:
        tensor = torch.tensor(columns)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"columns: expected ints, as many in each group, got {columns!r}") from error
    return tensor if tensor.numel() else tensor.int()  # none have the default dtype


def _strongest(conv: nn.Conv2d, density: float, criterion: str | Criterion) -> Tensor:
    """The indices (G, nnz), sorted, of the strongest columns of the weight of `conv`."""
    if callable(criterion):
        scores = scores_by(criterion, conv, {"": conv})
    elif criterion == "l2":
        scores = {"": column_norms(conv.weight.detach().double(), conv.groups)}
    else:
        raise ValueError(f"criterion: expected 'l2' or a function, got {criterion!r}")
    return strongest(scores, density)[""].nonzero()[:, 1].view(conv.groups, -1).int()
