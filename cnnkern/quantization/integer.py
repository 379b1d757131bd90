"""What stands between int8 layers and passes uint8 or int8 tensors on.

Sums and averages are computed in float32 from the integers, where each step rounds once, and then rounded to
the grid of the output: the same integers for the same input, whatever the memory format.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cnnkern.modules import Sources, are_current, sources_of

from .affine import Affine
from .conversion import operations


class OnGrids(nn.Module):
    """Base: named grids, as buffers `<name>_scale` (float32) and `<name>_zero_point` (int32)."""

    def __init__(self, **grids: Affine) -> None:
        super().__init__()
        for name, grid in grids.items():
            self.register_buffer(f"{name}_scale", torch.tensor(grid.scale, dtype=torch.float32))
            self.register_buffer(f"{name}_zero_point", torch.tensor(grid.zero_point, dtype=torch.int32))
        self.dtype = next(iter(grids.values())).dtype
        self._numbers = [number for grid in grids.values() for number in (grid.scale, grid.zero_point)]
        self._read: Sources = ()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> OnGrids:
        """As ever, but for the types of the buffers, which half() and its like leave as they are."""

        def apply(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype is tensor.dtype else tensor.to(moved.device)

        return super()._apply(apply, recurse)

    def grid(self, name: str) -> Affine:
        """One of the grids; its scale and zero point are tensors."""
        return Affine(getattr(self, f"{name}_scale"), getattr(self, f"{name}_zero_point"), self.dtype)

    def numbers(self) -> list[Any]:
        """The scale and the zero point of each grid as Python has them. They are read again only where a
        buffer has changed, since a GPU has to be waited for. What is compiled takes those read last."""
        if torch.compiler.is_compiling() or (self._read and are_current(self._read)):
            return self._numbers
        kept = self._buffers.values()
        if not any(value.is_meta for value in kept):
            self._numbers = [value.item() for value in kept]
            unseen = any(value.is_inference() for value in kept)  # what is written to these
            self._read = () if unseen else sources_of(self._buffers, list(self._buffers))
        return self._numbers

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.numbers()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_read": ()}

    def extra_repr(self) -> str:
        kept = [f"{name}={value.item():.4g}" for name, value in self.named_buffers(recurse=False)]
        return ", ".join([*kept, str(self.dtype)])


class Quantize(OnGrids):
    """float32 of any shape to integers on the grid."""

    def __init__(self, output: Affine) -> None:
        super().__init__(output=output)

    def forward(self, x: Tensor) -> Tensor:
        return operations().quantize(x.float(), *self.numbers(), self.dtype)


class Dequantize(OnGrids):
    """Integers on the grid to float32."""

    def __init__(self, input: Affine) -> None:
        super().__init__(input=input)

    def forward(self, q: Tensor) -> Tensor:
        return self.grid("input").dequantize(q)


class IntegerAdd(OnGrids):
    """The sum of two tensors on grids of their own, on a third one, and with `relu` not below zero."""

    def __init__(self, first: Affine, second: Affine, output: Affine, relu: bool = False) -> None:
        super().__init__(first=first, second=second, output=output)
        self.relu = relu

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        a_scale, a_zero_point, b_scale, b_zero_point, out_scale, out_zero_point = self.numbers()
        if a.shape != b.shape:
            a, b = torch.broadcast_tensors(a, b)
        return operations().add(
            a,
            b,
            a_scale=a_scale,
            a_zero_point=a_zero_point,
            b_scale=b_scale,
            b_zero_point=b_zero_point,
            out_scale=out_scale,
            out_zero_point=out_zero_point,
            activation="relu" if self.relu else None,
        )


class IntegerAveragePool(OnGrids):
    """An average over positions, on another grid.

    Args:
        pool: what averages a float tensor. It is given integers that float32 holds exactly, and their sums
            too as long as no average is over more than 65,793 of them.
    """

    def __init__(self, pool: nn.Module, input: Affine, output: Affine, relu: bool = False) -> None:
        super().__init__(input=input, output=output)
        self.pool = pool
        self.relu = relu

    def forward(self, q: Tensor) -> Tensor:
        input, output = self.grid("input"), self.grid("output")
        mean = self.pool(input.steps(q)).mul_(input.scale / output.scale)
        return output.round(mean.relu_() if self.relu else mean)


class IntegerRelu(OnGrids):
    """max(x, 0), and with a `ceiling` min(max(x, 0), ceiling), on one grid."""

    def __init__(self, grid: Affine, ceiling: float | None = None) -> None:
        super().__init__(input=grid)
        self.ceiling = ceiling

    def forward(self, q: Tensor) -> Tensor:
        grid = self.grid("input")
        q = torch.maximum(q, grid.zero_point.to(q.dtype))
        if self.ceiling is None:
            return q
        return torch.minimum(q, grid.quantize(torch.full_like(grid.scale, self.ceiling)))


class IntegerMaxPool(nn.MaxPool2d):
    """`torch.nn.MaxPool2d`, with the same arguments, that pools integers too."""

    def forward(self, x: Tensor) -> Tensor:
        if x.is_floating_point():
            return super().forward(x)
        pooled = operations().max_pool(
            x if x.dim() == 4 else x.unsqueeze(0),
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            ceil_mode=self.ceil_mode,
        )
        return pooled if x.dim() == 4 else pooled.squeeze(0)

    def constructor_arguments(self) -> dict[str, Any]:
        """What a pooling like this one is made with; also for a `torch.nn.MaxPool2d`."""
        names = ("kernel_size", "stride", "padding", "dilation", "return_indices", "ceil_mode")
        return {name: getattr(self, name) for name in names}
