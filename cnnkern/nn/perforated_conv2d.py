"""Perforated convolution, as a layer (Figurnov et al. 2016)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cnnkern import perforation
from cnnkern.nn.convolution import _Packed
from cnnkern.nn.dense_convolution import DenseConvolution2d
from cnnkern.nn.stock_perforated_conv2d import StockGatherConv2d, StockGridConv2d, is_regular_grid
from cnnkern.ops import perforated_conv2d
from cnnkern.ops.arguments import IntPair, Pair, output_size, pair
from cnnkern.ops.dispatch import run_without_gradient
from cnnkern.ops.perforated_conv2d import check_interpolation
from cnnkern.perforation.masks import checked_rate

Pattern = str | Callable[[Pair, float], Tensor]
PATTERNS: dict[str, Callable[[Pair, float], Tensor]] = {
    "grid": perforation.grid,
    "uniform": perforation.uniform,
}

_sources = torch.ops.cnnkern.perforated_conv2d_sources.default
_arrange = torch.ops.cnnkern.perforated_conv2d_arrange.default


class PerforatedConv2d(DenseConvolution2d):
    """A convolution that computes only the outputs which a mask keeps, and repeats these in the others.

    The arguments and attributes are those of `torch.nn.Conv2d`, then

    Args:
        mask: bool (oH, oW), True where an output is computed, the same for all images and channels; it fits
            one input size. None where every call brings its own.
        interpolation: "nearest", or "none" for zeros in the outputs that are not computed; see
            `cnnkern.ops.perforated_conv2d`.

    The learnable tensors are weight (K, C/groups, kH, kW) and bias (K), those of the dense convolution;
    `mask` is a buffer. A call `layer(x, mask=...)` computes with another mask, (oH, oW), or (N, oH, oW) with
    one for each image. See `repack` for when to call it.

    Raises:
        ValueError: a number that cannot be, such as channels that the groups do not divide, or a mask that
            keeps nothing.
        TypeError: an argument that is no int, no pair of ints, or no tensor of bools.
    """

    own_arguments = ("mask", "interpolation")
    packed_operation = torch.ops.cnnkern.perforated_conv2d_packed.default

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
        mask: Tensor | None,
        interpolation: str = "nearest",
    ) -> None:
        super().__init__(
            *(in_channels, out_channels, kernel_size, stride, padding, dilation, groups),
            *(bias, padding_mode, device, dtype),
        )
        check_interpolation(interpolation)
        self.interpolation = interpolation
        self.register_buffer("mask", None if mask is None else _checked_mask(mask, self.weight.device))
        self._rule: tuple[Callable[[Pair, float], Tensor], float] | None = None  # of a mask yet to be made

    @classmethod
    def from_conv(
        cls,
        conv: nn.Conv2d,
        mask: Tensor | None = None,
        *,
        rate: float | None = None,
        pattern: Pattern = "grid",
        interpolation: str = "nearest",
        input_size: IntPair | None = None,
    ) -> "PerforatedConv2d":
        """The layer with the weights of `conv`, on its device, that computes some of its outputs.

        Args:
            conv: a trained convolution; it is not changed, and its weights are copied.
            mask: bool (oH, oW); or
            rate: the share of outputs to drop, 0 <= rate < 1, by a mask made after
            pattern: "grid" or "uniform" of `cnnkern.perforation`, or a function of ((oH, oW), rate).
            interpolation: as in the constructor.
            input_size: int or pair (H, W), of the inputs. A mask by rate is made at once where it is given,
                else for the first input that comes, and stays: give it before compiling, exporting or saving.

        Raises:
            ValueError: neither or both of mask and rate, or a rate or pattern that cannot be.
            TypeError: something that is no `torch.nn.Conv2d`, or no tensor of bools.
        """
        if (mask is None) == (rate is None):
            raise ValueError("mask, rate: expected one of the two")
        layer = cls._of_conv(conv, mask=None, interpolation=interpolation)
        if mask is not None:
            layer.mask = _checked_mask(mask, conv.weight.device)
        else:
            layer._rule = _checked_pattern(pattern), checked_rate(rate)
            if input_size is not None:
                layer._make_mask(pair("input_size", input_size, 1))
        return layer

    def to_stock(self) -> StockGridConv2d | StockGatherConv2d:
        """The stock module that computes the same with the layer's own mask, with copies of the weights.

        Where the mask is a regular grid it is a convolution with a larger stride and an indexing of its
        outputs, else the gathering of the kept patches, a matrix product, and a gathering of its rows.

        Raises:
            ValueError: a layer that has no mask.
        """
        if self.mask is None:
            raise ValueError("mask: expected a layer with a mask of its own, got one without")
        kind = StockGridConv2d if is_regular_grid(self.mask) else StockGatherConv2d
        sources = _sources(self.mask, self.interpolation == "nearest")
        return kind(self.to_conv(), self.mask, sources).train(self.training)

    def constructor_arguments(self) -> dict[str, Any]:
        """As for every layer.

        Raises:
            ValueError: a mask that is yet to be made, for the first input that comes.
        """
        if self.mask is None and self._rule is not None:
            raise ValueError(
                "mask: expected one that is made; call the layer once, or give from_conv its input_size"
            )
        return super().constructor_arguments()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The convolution of `x` (N, C, H, W) or (C, H, W): (N, K, oH, oW) or (K, oH, oW).

        `mask`, bool (oH, oW) or (N, oH, oW), stands in for the layer's own in this call.
        """
        if mask is None and self._buffers["mask"] is None:
            if self._rule is None:
                raise ValueError("mask: expected one in the call, as the layer has none of its own")
            if isinstance(x, Tensor) and x.dim() in (3, 4):
                self._make_mask(tuple(x.shape[-2:]))
        return super().forward(x, mask)

    def _make_mask(self, input_size: Pair) -> None:
        """Make the mask after the rule that `from_conv` was given."""
        pattern, rate = self._rule
        margins, padding = self._split_padding()
        left, right, top, bottom = margins or (0, 0, 0, 0)
        padded = input_size[0] + top + bottom, input_size[1] + left + right
        size = output_size(padded, self.kernel_size, self.stride, padding, self.dilation)
        self.mask = _checked_mask(pattern(size, rate), self.weight.device)

    def _forward_packed(self, x: Tensor, packed: _Packed, mask: Tensor | None = None) -> Tensor:
        if packed.margins is not None:
            x = self._padded(x, packed.margins)
        arranged = self._own_arranged() if mask is None else self._arranged(mask)
        bias = self._parameters["bias"]
        return run_without_gradient(
            self.packed_operation, x, packed.weights, bias, *packed.arguments, arranged
        )

    def _own_arranged(self) -> Tensor:
        """What the kernel wants to know of the mask, kept from call to call until the mask changes."""
        mask, known = self._buffers["mask"], self._known
        if known is not None and known[0] is mask and known[1] == mask._version:
            return known[2]
        arranged = self._arranged(mask)
        if not mask.is_inference():
            self.__dict__["_known"] = mask, mask._version, arranged
        return arranged

    def _arranged(self, mask: Tensor) -> Tensor:
        return run_without_gradient(_arrange, mask, self.interpolation == "nearest")

    def _convolve(self, x: Tensor, padding: Pair, mask: Tensor | None = None) -> Tensor:
        return perforated_conv2d(
            x,
            self.weight,
            self.mask if mask is None else mask,
            self.bias,
            stride=self.stride,
            padding=padding,
            dilation=self.dilation,
            groups=self.groups,
            interpolation=self.interpolation,
        )

    def _forget_packed(self) -> None:
        super()._forget_packed()
        self.__dict__["_known"] = None

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # A layer whose mask is yet to be made takes over any.
        mask = state_dict.get(f"{prefix}mask")
        if mask is not None and self.mask is None:
            self.mask = torch.empty_like(mask, device=self.weight.device)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_known": None}

    def extra_repr(self) -> str:
        mask = self.mask
        if mask is None or mask.is_meta:
            text = f"{super().extra_repr()}, mask={None if mask is None else tuple(mask.shape)}"
        else:
            text = f"{super().extra_repr()}, rate={1 - mask.float().mean().item():.2f}"
        return text if self.interpolation == "nearest" else f"{text}, interpolation={self.interpolation}"


def _checked_mask(mask: Any, device: torch.device) -> Tensor:
    """A copy of `mask` on `device`, with a version counter."""
    if not isinstance(mask, Tensor) or mask.dtype is not torch.bool:
        kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"mask: expected a tensor of torch.bool (oH, oW), got {kind}")
    if mask.dim() != 2:
        raise ValueError(f"mask: expected (oH, oW), got {tuple(mask.shape)}")
    if not mask.is_meta and not bool(mask.any()):
        raise ValueError("mask: expected at least one kept position, got none")
    with torch.inference_mode(False):
        return mask.detach().to(device, copy=True)


def _checked_pattern(pattern: Any) -> Callable[[Pair, float], Tensor]:
    if callable(pattern):
        return pattern
    if not isinstance(pattern, str) or pattern not in PATTERNS:
        raise ValueError(f"pattern: expected {', '.join(PATTERNS)} or a function, got {pattern!r}")
    return PATTERNS[pattern]
