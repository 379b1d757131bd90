"""Contests of the int8 layers: against torch's quantized engines, and beside our float32 layers; those of
compressed layers against the float32 layer of the same rank or density.

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

from bench.contests import FORMATS, Contest, column_sparse, cp, dense
from bench.layers import Layer, int8_column_sparse_work, int8_cp_work, int8_gemm_work, int8_work
from bench.timing import Call, Contender, check
from cnnkern import _C, Int8ColumnSparseConv2d, Int8Conv2d, Int8CPConv2d, Int8Linear, reference

_FOR_X86 = {"fbgemm", "onednn", "x86"}
ENGINES = tuple(name for name in torch.backends.quantized.supported_engines if name in _FOR_X86)
CONTENDERS = (*(f"torch/{name}" for name in ENGINES), *(f"cnnkern/{name}" for name in FORMATS))
CONVOLUTION = torch.ops.quantized.conv2d_prepack, torch.ops.quantized.conv2d
LINEAR = torch.ops.quantized.linear_prepack, torch.ops.quantized.linear
X_SCALE, OUT_SCALE, OUT_ZERO_POINT = 1 / 64, 1 / 16, 128
DENSITIES = (0.3, 0.1)  # of the column-sparse layers
COMPRESSED = ("int8 cp", *(f"int8 column_sparse {density:g}" for density in DENSITIES))  # suites
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
    """`reference` gives the right output, and what ours may be away: others by one more."""

    layer: nn.Module

    def check(self) -> None:
        expected, bound = self.reference()
        with self.mode():
            for contender in self.contenders:
                ours = contender.name.startswith("cnnkern")
                if ours or others_are_exact():
                    check(contender, expected, bound if ours else bound + 1)


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
        *_our_calls(ours, x),
    ]
    options = {"stride": layer.stride, "padding": layer.padding}
    expected = partial(_expected, reference.int8_conv2d, ours, x, options)
    return Int8Contest(int8_work(layer, batch), calls, expected, ours.to_stock(), x, ours)


def convolutions(layer: Layer, batch: int) -> list[Contest]:
    """What is timed interleaved for one layer: the float32 layers, then the int8 ones."""
    return [dense(layer, batch), convolution(layer, batch)]


def compressed(layer: Layer, batch: int) -> list[Contest]:
    """What is timed interleaved for one layer: the dense contest; then for each rank, and for each density,
    the float32 contest and after it the int8 one."""
    entered: list[Contest] = [dense(layer, batch)]
    for rank in layer.ranks:
        entered.append(cp(layer, rank, batch))
        entered.append(_cp(layer, entered[-1]))
    for density in DENSITIES:
        entered.append(column_sparse(layer, density, batch))
        entered.append(_column_sparse(layer, entered[-1]))
    return entered


def _cp(layer: Layer, contest: Contest) -> Int8Contest:
    """Int8CPConv2d from the layer of a CP contest, whose normal input becomes u8."""
    cp_layer = contest.contenders[-1].run.func
    x = _integers(contest.x)
    with torch.no_grad():
        inner_scale = cp_layer.inner_range((x.float() - 128) * X_SCALE) / 127
    numbers = {"out_scale": OUT_SCALE, "out_zero_point": OUT_ZERO_POINT}
    ours = Int8CPConv2d.from_cp(cp_layer, X_SCALE, 128, inner_scale=inner_scale, **numbers)
    options = {"stride": layer.stride, "padding": layer.padding}
    numbers |= {"x_scale": X_SCALE, "x_zero_point": 128, **options}
    numbers |= {"factor_c_scale": ours.factor_c_scale, "factor_k_scale": ours.factor_k_scale}
    tensors = x, ours.factor_c, ours.factor_h, ours.factor_w, ours.factor_k, ours.bias

    def expected() -> tuple[Tensor, Tensor]:
        y = reference.int8_cp_conv2d(*tensors, **numbers)
        return y.float(), reference.int8_cp_conv2d_bound(*tensors, **numbers)

    work = int8_cp_work(layer, cp_layer.rank, len(x))
    return Int8Contest(work, _all_calls(ours, x), expected, ours.to_stock(), x, ours)


def _column_sparse(layer: Layer, contest: Contest) -> Int8Contest:
    """Int8ColumnSparseConv2d from the layer of a column-sparse contest."""
    x = _integers(contest.x)
    ours = Int8ColumnSparseConv2d.from_column_sparse(
        contest.contenders[-1].run.func, X_SCALE, 128, out_scale=OUT_SCALE, out_zero_point=OUT_ZERO_POINT
    )
    options = {"stride": layer.stride, "padding": layer.padding}
    expected = partial(_expected, reference.int8_conv2d, ours.to_dense(), x, options)
    work = int8_column_sparse_work(layer, contest.work.density, len(x))
    return Int8Contest(work, _all_calls(ours, x), expected, ours.to_stock(), x, ours)


def _integers(x: Tensor) -> Tensor:
    return reference.int8_quantize(x, X_SCALE, 128)


def _all_calls(layer: nn.Module, x: Tensor) -> list[Contender]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates its quantized tensors
        stock = layer.to_stock()
    inputs = {name: x.contiguous(memory_format=memory_format) for name, memory_format in FORMATS.items()}
    rivals = [IntegerCall(f"torch/{name}", partial(stock, x)) for name, x in inputs.items()]
    return [*rivals, *_our_calls(layer, x)]


def _our_calls(layer: nn.Module, x: Tensor) -> list[Contender]:
    inputs = {name: x.contiguous(memory_format=memory_format) for name, memory_format in FORMATS.items()}
    return [IntegerCall(f"cnnkern/{name}", partial(layer, x)) for name, x in inputs.items()]


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
    return y.float(), torch.zeros(())


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
