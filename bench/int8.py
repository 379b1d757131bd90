"""Contests of the int8 layers: against torch's quantized engines, and beside our float32 layer.

Weights are normal, as those of trained networks nearly are; activations take every value of u8. Ours must be
right to the last integer. torch's engines may differ by one, since they round in another order; on a CPU
without VNNI they saturate sums of 16 bits, and what they compute is not looked at.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from bench.contests import FORMATS, Contest, dense
from bench.layers import Layer, int8_gemm_work, int8_work
from bench.timing import Call, Contender, check
from cnnkern import _C, Int8Conv2d, Int8Linear, reference

_FOR_X86 = {"fbgemm", "onednn", "x86"}
ENGINES = tuple(name for name in torch.backends.quantized.supported_engines if name in _FOR_X86)
CONTENDERS = (*(f"torch/{name}" for name in ENGINES), *(f"cnnkern/{name}" for name in FORMATS))
CONVOLUTION = torch.ops.quantized.conv2d_prepack, torch.ops.quantized.conv2d
LINEAR = torch.ops.quantized.linear_prepack, torch.ops.quantized.linear
X_SCALE, OUT_SCALE, OUT_ZERO_POINT = 1 / 64, 1 / 16, 128
# m, n, k: square ones, the last layers of VGG-16 and ResNet-50, a projection of a transformer
SIZES = ((256, 256, 256), (1024, 1024, 1024), (16, 4096, 4096), (1, 1000, 2048), (197, 3072, 768))


@dataclass(frozen=True)
class IntegerCall(Call):
    """A contender whose output is integers, or a tensor that torch has quantized."""

    def output(self) -> Tensor:
        y = self.run()
        return (y.int_repr() if y.is_quantized else y).float()


@dataclass(frozen=True)
class Int8Contest(Contest):
    """`reference` gives the one right output, and as its bound what others may be away."""

    layer: Int8Conv2d | Int8Linear

    def check(self) -> None:
        expected, others = self.reference()
        with self.mode():
            for contender in self.contenders:
                ours = contender.name.startswith("cnnkern")
                if ours or others_are_exact():
                    check(contender, expected, torch.zeros(()) if ours else others)


def others_are_exact() -> bool:
    """Whether torch and ONNX Runtime have instructions here that do not saturate."""
    cpu = _C.cpu_features()
    return cpu["avx512_vnni"] or cpu["avx_vnni"]


def convolution(layer: Layer, batch: int) -> Int8Contest:
    """torch.ops.quantized.conv2d in each engine against Int8Conv2d, u8 in and out."""
    torch.manual_seed(0)
    conv = nn.Conv2d(layer.C, layer.K, layer.kernel, layer.stride, layer.padding).eval()
    nn.init.normal_(conv.weight, std=layer.columns**-0.5)
    ours = Int8Conv2d.from_conv(conv, X_SCALE, 128, out_scale=OUT_SCALE, out_zero_point=OUT_ZERO_POINT)
    x = torch.randint(256, (batch, layer.C, layer.H, layer.W), dtype=torch.uint8)
    geometry = [layer.stride] * 2, [layer.padding] * 2, [1, 1], 1
    inputs = {name: x.contiguous(memory_format=memory_format) for name, memory_format in FORMATS.items()}
    calls: list[Contender] = [
        *_engine_calls(ours, inputs["channels_last"], *CONVOLUTION, geometry),
        *(IntegerCall(f"cnnkern/{name}", partial(ours, x)) for name, x in inputs.items()),
    ]
    options = {"stride": layer.stride, "padding": layer.padding}
    expected = partial(_expected, reference.int8_conv2d, ours, x, options)
    return Int8Contest(int8_work(layer, batch), calls, expected, ours.to_stock(), x, ours)


def convolutions(layer: Layer, batch: int) -> list[Contest]:
    """What is timed interleaved for one layer: the float32 layers, then the int8 ones."""
    return [dense(layer, batch), convolution(layer, batch)]


def gemm(m: int, n: int, k: int) -> Int8Contest:
    """torch.ops.quantized.linear in each engine against Int8Linear, u8 in and out."""
    torch.manual_seed(0)
    linear = nn.Linear(k, n).eval()
    nn.init.normal_(linear.weight, std=k**-0.5)
    ours = Int8Linear.from_linear(linear, X_SCALE, 128, out_scale=OUT_SCALE, out_zero_point=OUT_ZERO_POINT)
    x = torch.randint(256, (m, k), dtype=torch.uint8)
    calls: list[Contender] = [
        *_engine_calls(ours, x, *LINEAR, ()),
        IntegerCall("cnnkern/contiguous", partial(ours, x)),
    ]
    expected = partial(_expected, reference.int8_linear, ours, x, {})
    return Int8Contest(int8_gemm_work(m, n, k), calls, expected, ours.to_stock(), x, ours)


def _expected(
    operation: Callable[..., Tensor], layer: Int8Conv2d | Int8Linear, x: Tensor, options: dict[str, int]
) -> tuple[Tensor, Tensor]:
    x_scale, x_zero_point, out_scale, out_zero_point = layer.numbers()
    y = operation(
        x,
        layer.weight,
        layer.bias,
        x_scale=x_scale,
        x_zero_point=x_zero_point,
        weight_scale=layer.weight_scale,
        out_scale=out_scale,
        out_zero_point=out_zero_point,
        **options,
    )
    return y.float(), torch.ones(())


def _engine_calls(
    layer: Int8Conv2d | Int8Linear,
    x: Tensor,
    prepack: Callable[..., object],
    operation: Callable[..., Tensor],
    geometry: tuple[object, ...],
) -> list[Contender]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates its quantized tensors
        zeros = torch.zeros(len(layer.weight_scale), dtype=torch.int64)
        weight = torch._make_per_channel_quantized_tensor(layer.weight, layer.weight_scale.double(), zeros, 0)
        x = torch._make_per_tensor_quantized_tensor(x, X_SCALE, 128)
    calls: list[Contender] = []
    for engine in ENGINES:
        with _engine(engine):
            packed = prepack(weight, layer.bias, *geometry)  # and stays with this engine
        calls.append(IntegerCall(f"torch/{engine}", partial(operation, x, packed, OUT_SCALE, OUT_ZERO_POINT)))
    return calls


@contextmanager
def _engine(name: str) -> Iterator[None]:
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = name
    try:
        yield
    finally:
        torch.backends.quantized.engine = before
