"""What the arguments of the operations may be, and the words that say so when they are not.

Every message names the argument, what was expected and what came. A fake (meta) kernel checks with the same
functions, so that a traced call is refused in the same words as an eager one.
"""

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from cnnkern import _C

IntPair = int | Sequence[int]
Pair = tuple[int, int]

# float64 is for gradcheck and for the oracle's sake: it runs through the scalar kernels
CPU_DTYPES = (torch.float32, torch.float64)
CUDA_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
DTYPES = {"cpu": CPU_DTYPES, "cuda": CUDA_DTYPES, "meta": CPU_DTYPES}
_CUDA = _C.build_info()["cuda"]
AUTOCAST_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
MOST = 2**31 - 1  # of strides and the like: what kernels make of them stays within 64 bits


def pair(name: str, value: Any, least: int) -> tuple[int, int]:
    """`value`, an int or a pair of ints, as a pair of at least `least` and at most MOST."""
    if type(value) is int:
        value = (value, value)
    elif type(value) is not tuple or len(value) != 2:
        value = _unusual_pair(name, value)
    first, second = value
    if not isinstance(first, (int, torch.SymInt)) or not isinstance(second, (int, torch.SymInt)):
        raise TypeError(f"{name}: expected an int or a pair of ints, got {value!r}")
    if not (least <= first <= MOST and least <= second <= MOST):
        limit = f"at least {least}" if first < least or second < least else f"at most {MOST}"
        raise ValueError(f"{name}: expected {limit}, got {(first, second)}")
    return value


def _unusual_pair(name: str, value: Any) -> tuple[Any, Any]:
    if isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool):
        return value, value
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError(f"{name}: expected an int or a pair of ints, got {value!r}")
    if len(value) != 2:
        raise ValueError(f"{name}: expected an int or a pair of ints, got {len(value)} of them: {value!r}")
    return value[0], value[1]


def geometry(stride: Any, padding: Any, dilation: Any) -> tuple[Pair, Pair, Pair]:
    """The three numbers of a convolution that are an int or a pair, as pairs."""
    return pair("stride", stride, 1), pair("padding", padding, 0), pair("dilation", dilation, 1)


def packed_geometry(size: int, numbers: Sequence[int]) -> tuple[Sequence[int], Pair, Pair, Pair, int]:
    """The one list of a packed operation, taken apart: `size` numbers about the weight, stride, padding,
    dilation, groups."""
    if len(numbers) != size + 7:
        raise ValueError(f"geometry: expected {size + 7} numbers, got {len(numbers)}")
    *pairs, groups = numbers[size:]
    return numbers[:size], *geometry(pairs[0:2], pairs[2:4], pairs[4:6]), groups


def check_groups(groups: Any, out_channels: int = 0) -> None:
    """`groups` is a positive int that divides `out_channels`."""
    if type(groups) is not int and not isinstance(groups, torch.SymInt):
        raise TypeError(f"groups: expected an int, got {groups!r}")
    if groups < 1:
        raise ValueError(f"groups: expected at least 1, got {groups}")
    if out_channels % groups:
        raise ValueError(f"groups: expected a divisor of the {out_channels} output channels, got {groups}")


def shape_of(name: str, tensor: Any, axes: str, dims: int) -> torch.Size:
    """The shape of a tensor that must have the `dims` axes named by `axes`."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a tensor {axes}, got {type(tensor).__name__}")
    shape = tensor.shape
    if len(shape) != dims:
        raise ValueError(f"{name}: expected {dims} dimensions {axes}, got {len(shape)}: {tuple(shape)}")
    return shape


def check_bias(bias: Any, out_channels: int) -> None:
    """`bias` is None or a tensor (K)."""
    if bias is None:
        return
    (length,) = shape_of("bias", bias, "(K)", 1)
    if length != out_channels:
        raise ValueError(f"bias: expected {out_channels} elements, one an output channel, got {length}")


def check_not_empty(name: str, shape: Sequence[int]) -> None:
    """No axis of a weight is empty."""
    if min(shape) < 1:
        raise ValueError(f"{name}: expected at least 1 along every axis, got {tuple(shape)}")


def check_kind(**tensors: Tensor | None) -> None:
    """All tensors have the dtype and the device of the first, and there is a kernel for these."""
    dtype = None
    for tensor in tensors.values():
        if tensor is None:
            continue
        if dtype is None:
            dtype = tensor.dtype
        if not tensor.is_cpu or tensor.dtype is not dtype or dtype not in CPU_DTYPES:
            _check_each_kind(tensors)
            return


def has_kernel(tensor: Tensor) -> bool:
    """Whether some operation computes with tensors of this device and dtype."""
    device = tensor.device.type
    return tensor.dtype in DTYPES.get(device, ()) and (_CUDA or device != "cuda")


def check_device(name: str, tensor: Tensor) -> None:
    """This build has kernels for the device of `tensor`."""
    device = tensor.device
    if device.type not in DTYPES or (device.type == "cuda" and not _CUDA):
        reason = f"this build has none for CUDA ({_C.build_info()['cuda_reason']})"
        raise NotImplementedError(
            f"{name}: expected a tensor on the CPU, got one on {device}: "
            + (reason if device.type == "cuda" else "no kernel for it")
        )


def check_same_device(name: str, tensor: Tensor, like_name: str, like: Tensor) -> None:
    """`tensor` is on the device of `like`."""
    if tensor.device != like.device:
        raise ValueError(
            f"{name}: expected a tensor on {like.device} like {like_name}, got one on {tensor.device}"
        )


def _check_each_kind(tensors: dict[str, Tensor | None]) -> None:
    (first_name, first), *_ = tensors.items()
    device = first.device
    check_device(first_name, first)
    dtypes = DTYPES[device.type]
    autocast = device.type != "meta" and torch.is_autocast_enabled(device.type)

    def computed(tensor: Tensor) -> torch.dtype:
        return autocast_dtype(device.type) if autocast and tensor.dtype in AUTOCAST_DTYPES else tensor.dtype

    for name, tensor in tensors.items():
        if tensor is None:
            continue
        check_same_device(name, tensor, first_name, first)
        if computed(tensor) not in dtypes:
            names = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
            raise NotImplementedError(f"{name}: expected {names}, got {tensor.dtype}: no kernel for it")
        if computed(tensor) is not computed(first):
            raise ValueError(f"{name}: expected {first.dtype} like {first_name}, got {tensor.dtype}")


def autocast_dtype(device: str) -> torch.dtype:
    """What autocast makes the operations compute in: on the CPU, which has no kernel for less, float32."""
    return torch.float32 if device == "cpu" else torch.get_autocast_dtype(device)


def output_size(
    image: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[int, int]:
    """(oH, oW) of a convolution; a ValueError where the image is empty or the kernel does not fit into it."""
    h = image[0] + 2 * padding[0] - dilation[0] * (kernel[0] - 1) - 1
    w = image[1] + 2 * padding[1] - dilation[1] * (kernel[1] - 1) - 1
    if h < 0 or w < 0 or image[0] < 1 or image[1] < 1:
        _refuse_size(image, kernel, padding, dilation)
    return h // stride[0] + 1, w // stride[1] + 1


def _refuse_size(
    image: tuple[int, int], kernel: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]
) -> NoReturn:
    if image[0] < 1 or image[1] < 1:
        raise ValueError(f"x: expected an image of at least 1 x 1, got {image[0]} x {image[1]}")
    extent = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    padded = [size + 2 * p for size, p in zip(image, padding, strict=True)]
    raise ValueError(
        f"x: expected an image that the kernel fits into, got {padded[0]} x {padded[1]} with its padding for "
        f"a kernel of {extent[0]} x {extent[1]} with its dilation"
    )


def convolution_size(
    x: Tensor,
    weight_size: Sequence[int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> tuple[int, int, int, int]:
    """The shape (N, K, oH, oW) of a convolution of `x` with a weight of size (K, C/groups, kH, kW)."""
    k, c, kernel_height, kernel_width = weight_size
    check_groups(groups, k)
    n, channels, height, width = shape_of("x", x, "(N, C, H, W)", 4)
    if channels != c * groups:
        raise ValueError(f"x: expected {c * groups} channels ({groups} groups of {c}), got {channels}")
    return n, k, *output_size((height, width), (kernel_height, kernel_width), stride, padding, dilation)


def check_convolution(
    x: Tensor,
    weights: dict[str, Tensor],
    bias: Tensor | None,
    weight_size: tuple[int, int, int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> tuple[int, int, int, int]:
    """The shape of a floating-point convolution: that of `convolution_size`."""
    shape = convolution_size(x, weight_size, stride, padding, dilation, groups)
    check_bias(bias, weight_size[0])
    check_kind(x=x, **weights, bias=bias)
    return shape


def check_gradient(grad: Tensor, x: Tensor, shape: Sequence[int]) -> None:
    """The gradient of an output has the output's shape, and the device of x."""
    check_same_device("grad", grad, "x", x)
    if tuple(shape_of("grad", grad, "(N, K, oH, oW)", 4)) != tuple(shape):
        raise ValueError(f"grad: expected the output's shape {tuple(shape)}, got {tuple(grad.shape)}")


def check_packed(packed: Tensor, length: int) -> None:
    """A packed weight is one row of `length` elements."""
    (got,) = shape_of("packed", packed, "(length)", 1)
    if got != length:
        raise ValueError(f"packed: expected {length} elements for a weight of this size, got {got}")


def up_to_chunk(elements: int, like: Tensor) -> int:
    """`elements` rounded up to whole chunks of 16 bytes, in which the CUDA kernels have rows of weights."""
    chunk = 16 // like.element_size()
    return (elements + chunk - 1) // chunk * chunk


def up_to_panel(channels: int) -> int:
    """`channels` rounded up to whole panels of 16, in which packed weights come."""
    return (channels + 15) // 16 * 16


def memory_format(x: Tensor) -> torch.memory_format:
    """The memory format that torch's `conv2d` gives its output for a 4-D `x`: channels_last where the
    strides say so.

    For shapes whose strides fit both (C = 1 or H = W = 1) it is the strides of the axes of size 1 that
    decide: the rule of `TensorImpl::compute_channels_last_2d` in c10, which kernels see as
    `suggest_memory_format`.
    """
    shape, strides = x.shape, x.stride()
    if strides[1] == 0:
        return torch.contiguous_format
    least = 0
    for axis in (1, 3, 2, 0):
        if shape[axis] == 0 or strides[axis] < least or (axis == 0 and least == strides[1]):
            return torch.contiguous_format
        least = strides[axis] * max(shape[axis], 1)
    return torch.channels_last
