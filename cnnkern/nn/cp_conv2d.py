"""Fused CP convolution as a layer.

Lebedev, Ganin, Rakhuba, Oseledets, Lempitsky: Speeding-up Convolutional Neural Networks Using Fine-tuned
CP-Decomposition, ICLR 2015.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnkern.decomposition import cp
from cnnkern.nn.convolution import (
    Convolution2d,
    arguments_of,
    check_conv,
    check_count,
    dense_conv,
    empty_parameter,
    parameter_like,
)
from cnnkern.ops import cp_conv2d
from cnnkern.ops.arguments import IntPair, Pair


class CPConv2d(Convolution2d):
    """A convolution with a weight of CP rank `rank`: 1×1, d×1 depthwise, 1×d depthwise, 1×1 in one kernel.

    The arguments and attributes are those of `torch.nn.Conv2d`, and `rank`, the number of CP components R.
    The weight it stands for is W[k,c,i,j] = Σ_r factor_k[k,r] factor_c[r,c] factor_h[r,i] factor_w[r,j].
    The learnable tensors are factor_c (R, C/groups), factor_h (R, kH), factor_w (R, kW), factor_k (K,
    R/groups) and bias (K). With groups, `rank` is the total: each group has rank/groups components of its
    own. See `repack` for when to call it.

    Raises:
        ValueError: a number that cannot be, such as a rank that the groups do not divide.
        TypeError: an argument that is no int, or no pair of ints.
    """

    own_arguments = ("rank",)
    packed_parameters = ("factor_c", "factor_h", "factor_w", "factor_k")
    packed_operation = torch.ops.cnnkern.cp_conv2d_packed.default

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
        rank: int,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode
        )
        self.rank = check_count("rank", rank, groups)
        shapes = {
            "factor_c": (rank, in_channels // groups),
            "factor_h": (rank, self.kernel_size[0]),
            "factor_w": (rank, self.kernel_size[1]),
            "factor_k": (out_channels, rank // groups),
        }
        for name, shape in shapes.items():
            self.register_parameter(name, empty_parameter(shape, device, dtype))
        self._add_bias(bias, device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new factors, such that the output has the variance that `torch.nn.Conv2d`'s initial weights
        give.

        Those are uniform with the variance 1/(3n), n = C/groups·kH·kW. Here each of the first three factors
        keeps the variance of its input, and the last one has the 1/3: independent uniform entries of
        variance 1 over the number of terms of the sum that they take part in, and 1/3 of that for factor_k.
        """
        for name in self.packed_parameters:
            factor = getattr(self, name)
            variance = 1 / factor.shape[1] / (3 if name == "factor_k" else 1)
            bound = math.sqrt(3 * variance)
            nn.init.uniform_(factor, -bound, bound)
        if self.bias is not None:
            kernel_h, kernel_w = self.kernel_size
            bound = 1 / math.sqrt(self.in_channels // self.groups * kernel_h * kernel_w)
            nn.init.uniform_(self.bias, -bound, bound)

    @classmethod
    def from_conv(
        cls,
        conv: nn.Conv2d,
        rank: int = 64,
        method: str = "nls",
        seed: int = 0,
        *,
        verbose: bool | None = None,
    ) -> "CPConv2d":
        """The layer whose factors `cnnkern.decomposition.cp` fits to the weight of `conv`, on its device.

        Args:
            conv: a trained convolution; it is not changed, and its bias is copied.
            rank: the total rank R; with groups, each group's weight gets a fit of rank R/groups.
            method, seed, verbose: of the fit, see `cnnkern.decomposition.cp`.
        """
        check_conv(conv)
        layer = cls(**arguments_of(conv), rank=rank, device="meta", dtype=conv.weight.dtype)
        fits = [
            cp(weight, rank // conv.groups, method=method, seed=seed, verbose=verbose)
            for weight in conv.weight.detach().chunk(conv.groups)
        ]
        for name in cls.packed_parameters:
            setattr(layer, name, parameter_like(torch.cat([getattr(fit, name) for fit in fits]), conv.weight))
        if conv.bias is not None:
            layer.bias = parameter_like(conv.bias, conv.bias)
        return layer.train(conv.training)

    def to_conv(self) -> nn.Conv2d:
        """The dense `torch.nn.Conv2d` with the weight that the factors stand for."""
        c, h, w, k = (getattr(self, name).detach().double() for name in self.packed_parameters)
        components = torch.einsum("rc,ri,rj->rcij", c, h, w)
        groups = (self.groups, -1)
        by_group = torch.bmm(k.unflatten(0, groups), components.flatten(1).unflatten(0, groups))
        return dense_conv(self, by_group.reshape(-1, *components.shape[1:]), self.factor_k)

    def inner_range(self, x: Tensor) -> Tensor:
        """(R): the greatest magnitude of what each component has after the depthwise stages, for a batch `x`.

        What `Int8CPConv2d.from_cp` is to be given, over inputs like those to come, as 127 steps.
        """
        with torch.no_grad():
            inner = self.stock_inner(x, self.factor_c, self.factor_h, self.factor_w)
        return inner.abs().amax((0, 2, 3))

    def stock_inner(self, x: Tensor, factor_c: Tensor, factor_h: Tensor, factor_w: Tensor) -> Tensor:
        """(N, R, oH, oW): what the first three stages give with other factors, by stock convolutions;
        differentiable."""
        x, (padding_h, padding_w) = self._split_and_pad(x)
        (stride_h, stride_w), (dilation_h, dilation_w) = self.stride, self.dilation
        x = F.conv2d(x, factor_c[..., None, None], groups=self.groups)
        x = F.conv2d(
            *(x, factor_h[:, None, :, None], None, (stride_h, 1), (padding_h, 0), (dilation_h, 1), self.rank)
        )
        return F.conv2d(
            *(x, factor_w[:, None, None, :], None, (1, stride_w), (0, padding_w), (1, dilation_w), self.rank)
        )

    def stock_outer(self, inner: Tensor, factor_k: Tensor, bias: Tensor | None) -> Tensor:
        """What the last stage makes of that, with another factor and bias."""
        return F.conv2d(inner, factor_k[..., None, None], bias, groups=self.groups)

    def to_stock(self) -> nn.Sequential:
        """The four stock convolutions that compute the same, with copies of the factors as their weights."""
        kernel_h, kernel_w = self.kernel_size
        stride_h, stride_w = self.stride
        dilation_h, dilation_w = self.dilation
        if isinstance(self.padding, str):
            padding_h = padding_w = self.padding
        else:
            padding_h, padding_w = (self.padding[0], 0), (0, self.padding[1])
        rank, groups, bias = self.rank, self.groups, self.bias is not None
        kind = {"device": "meta", "dtype": self.factor_c.dtype}
        depthwise = {"groups": rank, "bias": False, "padding_mode": self.padding_mode, **kind}
        stages = nn.Sequential(
            nn.Conv2d(self.in_channels, rank, 1, groups=groups, bias=False, **kind),
            nn.Conv2d(rank, rank, (kernel_h, 1), (stride_h, 1), padding_h, (dilation_h, 1), **depthwise),
            nn.Conv2d(rank, rank, (1, kernel_w), (1, stride_w), padding_w, (1, dilation_w), **depthwise),
            nn.Conv2d(rank, self.out_channels, 1, groups=groups, bias=bias, **kind),
        )
        for stage, name in zip(stages, self.packed_parameters, strict=True):
            factor = getattr(self, name)
            stage.weight = parameter_like(factor.reshape(stage.weight.shape), factor)
        if self.bias is not None:
            stages[-1].bias = parameter_like(self.bias, self.bias)
        return stages.train(self.training)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rank={self.rank}"

    def _convolve(self, x: Tensor, padding: Pair) -> Tensor:
        return cp_conv2d(
            x,
            self.factor_c,
            self.factor_h,
            self.factor_w,
            self.factor_k,
            self.bias,
            stride=self.stride,
            padding=padding,
            dilation=self.dilation,
            groups=self.groups,
        )

    def _pack(self) -> tuple[Tensor, tuple[int, ...]]:
        factors = self.factor_c, self.factor_h, self.factor_w, self.factor_k
        packed = torch.ops.cnnkern.cp_conv2d_pack.default(*factors, self.groups)
        kernel_h, kernel_w = self.kernel_size
        return packed, (self.out_channels, self.rank, self.in_channels // self.groups, kernel_h, kernel_w)
