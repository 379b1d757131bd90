"""What the convolution layers share: the arguments of `torch.nn.Conv2d`, padding, and the packed weights.

In eval mode, where no gradient is asked for, a layer runs the packed form of its operation: the weights are
rearranged once for the kernel and kept, and a call costs little more than the kernel. In training, where a
gradient is asked for, where autocast is to change the weights on CUDA, and under `torch.compile` and
`torch.export` it runs the plain form.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnkern.modules import Sources, are_current, sources_of
from cnnkern.ops.arguments import IntPair, Pair, autocast_dtype, has_kernel, memory_format, pair
from cnnkern.ops.dispatch import run_without_gradient

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")

Margins = tuple[int, int, int, int]  # left, right, top, bottom, as F.pad takes them


class _Packed(NamedTuple):
    """Packed weights, and what they were packed from."""

    sources: Sources
    margins: Margins | None  # padding that the operation cannot do itself
    weights: Tensor  # one row, in the kernel's own order
    arguments: tuple[Any, ...]  # of the packed operation, those after the bias

    def is_current(self) -> bool:
        return are_current(self.sources)

    def is_cast(self) -> bool:
        """Whether autocast is about to cast the weights, whose order is that of their dtype alone."""
        return (
            self.weights.is_cuda
            and torch.is_autocast_enabled("cuda")
            and self.weights.dtype is not autocast_dtype("cuda")
        )


class Convolution2d(nn.Module):
    """Base of the convolution layers: geometry, bias and packing. The weights are the subclass's."""

    # of the subclass: the arguments of its constructor after those of torch.nn.Conv2d, kept as attributes of
    # these names
    own_arguments: tuple[str, ...] = ()
    # of the subclass: the parameters that are packed, the buffers that say how, the operation that takes them
    # so, its last arguments
    packed_parameters: tuple[str, ...]
    packed_buffers: tuple[str, ...] = ()
    packed_operation: torch._ops.OpOverload
    packed_last_arguments: tuple[Any, ...] = ()

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntPair,
        stride: IntPair,
        padding: IntPair | str,
        dilation: IntPair,
        groups: int,
        padding_mode: str,
    ) -> None:
        super().__init__()
        check_count("groups", groups)
        self.in_channels = check_count("in_channels", in_channels, groups)
        self.out_channels = check_count("out_channels", out_channels, groups)
        self.groups = groups
        self.kernel_size = pair("kernel_size", kernel_size, 1)
        self.stride = pair("stride", stride, 1)
        self.padding = _checked_padding(padding, self.stride)
        self.dilation = pair("dilation", dilation, 1)
        if padding_mode not in PADDING_MODES:
            raise ValueError(
                f"padding_mode: expected one of {', '.join(PADDING_MODES)}, got {padding_mode!r}"
            )
        self.padding_mode = padding_mode
        # as torch.nn.Conv2d has them
        self.transposed, self.output_padding = False, (0, 0)

    def forward(self, x: Tensor, *more: Any) -> Tensor:
        """The convolution of `x` (N, C, H, W) or (C, H, W): (N, K, oH, oW) or (K, oH, oW).

        `more` is what a subclass takes in a call besides.
        """
        if (
            not torch.compiler.is_compiling()
            and (packed := self._packed) is not None
            and not torch.is_grad_enabled()
            and packed.is_current()
            and not packed.is_cast()
        ):
            try:
                return self._forward_packed(x, packed, *more)
            except (RuntimeError, ValueError, TypeError):
                pass  # no batch of images, or a mistake that the packed operation has few words for
        return self._forward_checked(x, *more)

    def constructor_arguments(self) -> dict[str, Any]:
        """What the constructor takes, device and dtype aside, to make another layer of this structure."""
        return {**arguments_of(self), **{name: getattr(self, name) for name in self.own_arguments}}

    def _forward_checked(self, x: Tensor, *more: Any) -> Tensor:
        if isinstance(x, Tensor) and x.dim() == 3:
            return self.forward(x.unsqueeze(0), *more).squeeze(0)
        if self.training or torch.compiler.is_compiling() or self._wants_gradient(x):
            return self._forward_plain(x, *more)
        if self._packed is None or not self._packed.is_current():
            self.repack()
        if self._packed is None or self._packed.is_cast():
            return self._forward_plain(x, *more)
        try:
            return self._forward_packed(x, self._packed, *more)
        except (RuntimeError, ValueError, TypeError) as refusal:
            error = refusal
        self._forward_plain(x, *more)  # names the argument that is wrong
        raise error

    def _forward_packed(self, x: Tensor, packed: _Packed) -> Tensor:
        if packed.margins is not None:
            x = self._padded(x, packed.margins)
        bias = self._parameters["bias"]
        return run_without_gradient(self.packed_operation, x, packed.weights, bias, *packed.arguments)

    def _split_and_pad(self, x: Tensor) -> tuple[Tensor, Pair]:
        """`x` with the padding that operations cannot do themselves, and theirs."""
        margins, padding = self._split_padding()
        return (x if margins is None else self._padded(x, margins)), padding

    def _forward_plain(self, x: Tensor, *more: Any) -> Tensor:
        x, padding = self._split_and_pad(x)
        return self._convolve(x, padding, *more)

    def repack(self) -> None:
        """Pack the weights now if the layer is in eval mode; else forget what was packed.

        Packing happens by itself at the first call in eval mode, and again after a weight was replaced or
        written to in place. Call this after writing to a weight through `.data` or through other memory
        that it shares, which leaves no trace on the weight.
        """
        self.__dict__["_packed"] = None
        if self.training or not self._can_pack():
            return
        sources = sources_of(self._parameters, self.packed_parameters)
        sources += sources_of(self._buffers, self.packed_buffers)
        margins, padding = self._split_padding()
        with torch.no_grad():
            weights, size = self._pack()
        if type(weights) is Tensor:  # and not a tracer's
            self.__dict__["_packed"] = _Packed(
                sources,
                margins,
                weights,
                # one list, since each costs a call a microsecond
                ([*size, *self.stride, *padding, *self.dilation, self.groups], *self.packed_last_arguments),
            )

    def _can_pack(self) -> bool:
        """Whether the weights are parameters, and the buffers, of a kind that can be watched for changes."""
        weights = [self._parameters.get(name) for name in self.packed_parameters]
        buffers = [self._buffers.get(name) for name in self.packed_buffers]
        return (
            "bias" in self._parameters
            and all(w is not None and has_kernel(w) and not w.is_inference() for w in weights)
            and all(b is not None and not b.is_inference() for b in buffers)
            and not torch._C._are_functorch_transforms_active()
        )

    def _pack(self) -> tuple[Tensor, tuple[int, ...]]:
        """The packed weights, and the size that the packed operation wants to know."""
        raise NotImplementedError

    def _convolve(self, x: Tensor, padding: Pair, *more: Any) -> Tensor:
        """The plain operation."""
        raise NotImplementedError

    def _wants_gradient(self, x: Tensor) -> bool:
        return torch.is_grad_enabled() and torch._C._any_requires_grad(x, *self._parameters.values())

    def _split_padding(self) -> tuple[Margins | None, Pair]:
        """F.pad's part of the padding, and the operation's own: as many zeros at the end as at the start."""
        if self.padding == "valid":
            return None, (0, 0)
        if self.padding == "same":
            (kh, kw), (dh, dw) = self.kernel_size, self.dilation
            total_h, total_w = dh * (kh - 1), dw * (kw - 1)
            top, left = total_h // 2, total_w // 2
            bottom, right = total_h - top, total_w - left
        else:
            top, left = bottom, right = self.padding
        if self.padding_mode == "zeros" and (top, left) == (bottom, right):
            return None, (top, left)
        return (left, right, top, bottom), (0, 0)

    def _padded(self, x: Tensor, margins: Margins) -> Tensor:
        y = F.pad(x, margins, "constant" if self.padding_mode == "zeros" else self.padding_mode)
        # circular padding comes out contiguous whatever went in
        return y.contiguous(memory_format=memory_format(x)) if self.padding_mode == "circular" else y

    def _add_bias(self, bias: bool, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        self.register_parameter(
            "bias", empty_parameter((self.out_channels,), device, dtype) if bias else None
        )

    def _forget_packed(self) -> None:
        self.__dict__["_packed"] = None

    # The packed weights go when anything about the module changes: a weight, the stride, train() and eval().

    def __setattr__(self, name: str, value: Any) -> None:
        self._forget_packed()
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        self._forget_packed()
        super().__delattr__(name)

    def _apply(self, *args: Any, **kwargs: Any) -> "Convolution2d":
        self._forget_packed()
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._forget_packed()
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        # a copy has version counters of its own
        return {**self.__dict__, "_packed": None}

    def extra_repr(self) -> str:
        text = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        )
        if self.padding != (0, 0):
            text += f", padding={self.padding}"
        if self.dilation != (1, 1):
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        return text if self.padding_mode == "zeros" else f"{text}, padding_mode={self.padding_mode}"


def check_count(name: str, value: Any, divisor: int = 1) -> int:
    """`value`, if it is a positive int and a multiple of `divisor`, the number of groups."""
    if type(value) is not int:
        raise TypeError(f"{name}: expected an int, got {value!r}")
    if value < 1:
        raise ValueError(f"{name}: expected at least 1, got {value}")
    if value % divisor:
        raise ValueError(f"{name}: expected a multiple of groups={divisor}, got {value}")
    return value


def _checked_padding(padding: IntPair | str, stride: Pair) -> Pair | str:
    if not isinstance(padding, str):
        return pair("padding", padding, 0)
    if padding not in ("same", "valid"):
        raise ValueError(f"padding: expected 'same', 'valid', an int or a pair of ints, got {padding!r}")
    if padding == "same" and stride != (1, 1):
        raise ValueError(f"padding: 'same' is for stride 1, got stride {stride}")
    return padding


def check_conv(conv: Any) -> None:
    """`conv` is a `torch.nn.Conv2d` with its weight in place."""
    if not isinstance(conv, nn.Conv2d) or isinstance(conv, nn.modules.lazy.LazyModuleMixin):
        raise TypeError(f"conv: expected a torch.nn.Conv2d, got {type(conv).__name__}")


def arguments_of(conv: nn.Conv2d | Convolution2d) -> dict[str, Any]:
    """The constructor arguments that `torch.nn.Conv2d` and the layers have in common."""
    names = (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
        "padding_mode",
    )
    return {**{name: getattr(conv, name) for name in names}, "bias": conv.bias is not None}


# A tensor made in inference mode counts no versions, and its changes could not be seen: parameters are not.


def empty_parameter(
    shape: tuple[int, ...], device: torch.device | str | None, dtype: torch.dtype | None
) -> nn.Parameter:
    """An uninitialized parameter."""
    with torch.inference_mode(False):
        return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))


def parameter_like(values: Tensor, parameter: Tensor) -> nn.Parameter:
    """`values` in memory of their own, as a parameter of the dtype of `parameter`, trained if that one is."""
    with torch.inference_mode(False):
        copy = values.detach().to(parameter.dtype, copy=True)
        return nn.Parameter(copy, requires_grad=parameter.requires_grad)


def dense_conv(layer: Convolution2d, weight: Tensor, like: Tensor) -> nn.Conv2d:
    """A `torch.nn.Conv2d` with the geometry and the bias of `layer`, and the weight `weight`."""
    conv = nn.Conv2d(**arguments_of(layer), device="meta", dtype=like.dtype)
    conv.weight = parameter_like(weight, like)
    if layer.bias is not None:
        conv.bias = parameter_like(layer.bias, layer.bias)
    return conv.train(layer.training)
