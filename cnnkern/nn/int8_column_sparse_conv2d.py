"""Convolution of 8-bit integers with the kept columns of a pruned weight matrix, as a layer."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cnnkern.nn.column_sparse_conv2d import ColumnSparseConv2d, checked_columns, with_zeros
from cnnkern.nn.convolution import arguments_of
from cnnkern.nn.int8 import Int8Layer
from cnnkern.nn.int8_conv2d import Int8Conv2d
from cnnkern.nn.int8_convolution import Int8Convolution2d
from cnnkern.ops import int8_column_sparse_conv2d
from cnnkern.ops.arguments import IntPair, Pair
from cnnkern.ops.int8_arguments import check_sum


class Int8ColumnSparseConv2d(Int8Convolution2d):
    """`ColumnSparseConv2d` with int8 weights, of integers (uint8 or int8): what `Int8Conv2d` computes with
    zeros in place of the columns that are gone, to the last bit, without computing with these.

    The arguments and attributes are those of both. All tensors are buffers: weight (K, nnz) int8,
    weight_scale (K) and bias (K) float32, columns (nnz), or (groups, nnz), int32, and the numbers. A new
    layer has zeros for weight and bias: see `from_column_sparse`.

    Raises:
        ValueError: a number that cannot be; columns that are not sorted, or outside the matrix.
        TypeError: an argument that is no number, no pair of ints, or no tensor or sequence of ints.
    """

    own_arguments = ("columns", *Int8Layer.own_arguments)
    packed_buffers = ("columns", *Int8Layer.packed_buffers)
    packed_operation = torch.ops.cnnkern.int8_column_sparse_conv2d_packed.default

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
        *,
        columns: Tensor | Sequence[Any],
        x_scale: float,
        x_zero_point: int,
        out_scale: float | None = None,
        out_zero_point: int = 0,
        activation: str | None = None,
        x_dtype: torch.dtype = torch.uint8,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode
        )
        kept = checked_columns(columns, self.groups, self.total_columns)
        check_sum("columns", kept.shape[-1])
        numbers = x_scale, x_zero_point, out_scale, out_zero_point
        self._add_integers((out_channels, kept.shape[-1]), bias, device, numbers, activation, x_dtype)
        with torch.inference_mode(False):
            self.register_buffer("columns", kept.to(self.weight.device, copy=True))

    @property
    def total_columns(self) -> int:
        """Columns of a group before pruning: C/groups·kH·kW."""
        return self.in_channels // self.groups * self.kernel_size[0] * self.kernel_size[1]

    @classmethod
    def from_column_sparse(
        cls,
        layer: ColumnSparseConv2d,
        x_scale: float,
        x_zero_point: int,
        *,
        out_scale: float | None = None,
        out_zero_point: int = 0,
        activation: str | None = None,
        x_dtype: torch.dtype = torch.uint8,
        weight_scale: Tensor | None = None,
    ) -> "Int8ColumnSparseConv2d":
        """The layer with the weight of `layer` in integers and a copy of its bias, on its device.

        The arguments are those of `Int8Conv2d.from_conv`.
        """
        if not isinstance(layer, ColumnSparseConv2d):
            raise TypeError(f"layer: expected a ColumnSparseConv2d, got {type(layer).__name__}")
        int8 = cls(
            **arguments_of(layer),
            columns=layer.columns,
            device=layer.weight.device,
            x_scale=x_scale,
            x_zero_point=x_zero_point,
            out_scale=out_scale,
            out_zero_point=out_zero_point,
            activation=activation,
            x_dtype=x_dtype,
        )
        int8._set_weight(layer.weight.detach(), weight_scale, layer.bias)
        return int8.train(layer.training)

    def to_dense(self) -> Int8Conv2d:
        """The `Int8Conv2d` that gives the same bits: zeros in place of the pruned columns."""
        arguments = self.constructor_arguments()
        del arguments["columns"]
        dense = Int8Conv2d(**arguments, device=self.weight.device)
        dense.weight = with_zeros(
            self.weight, self.columns, self.groups, self.kernel_size, self.total_columns
        )
        dense.weight_scale = self.weight_scale.clone()
        dense.bias = None if self.bias is None else self.bias.clone()
        return dense.train(self.training)

    def to_conv(self) -> nn.Conv2d:
        """The dense `torch.nn.Conv2d` with the weight and bias that the integers stand for; no activation."""
        return self.to_dense().to_conv()

    def to_stock(self) -> nn.Module:
        """The fastest stock module that computes the same: torch's own quantized convolution with zeros in
        place of the pruned columns, as `Int8Conv2d.to_stock`."""
        return self.to_dense().to_stock()

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, columns={self.columns.shape[-1]} of {self.total_columns}"

    @property
    def packed_last_arguments(self) -> tuple[Any, ...]:
        return (self.columns, self.weight_scale, *self.numbers(), self.relu)

    def _pack(self) -> tuple[Tensor, tuple[int, ...]]:
        packed = torch.ops.cnnkern.int8_column_sparse_conv2d_pack.default(self.weight, self.groups)
        return packed, (self.out_channels, self.in_channels // self.groups, *self.kernel_size)

    def _convolve(self, x: Tensor, padding: Pair) -> Tensor:
        # the operation knows how many channels there are from x alone
        if isinstance(x, Tensor) and x.dim() == 4 and x.shape[1] != self.in_channels:
            raise ValueError(
                f"x: expected {self.in_channels} channels ({self.groups} groups of "
                f"{self.in_channels // self.groups}), got {x.shape[1]}"
            )
        return int8_column_sparse_conv2d(
            x,
            self.weight,
            self.columns,
            self.bias,
            weight_scale=self.weight_scale,
            kernel_size=self.kernel_size,
            **self._options(padding),
        )
