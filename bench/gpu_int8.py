"""What `make gpu` times of the int8 operations: convolutions against cuDNN's bfloat16 ones, since torch has
none of integers on CUDA, and matrix products against torch's own."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from bench.gpu_contests import BATCHES, LAYOUTS, add_wgmma, measured, on_layouts
from bench.gpu_record import WGMMA, told
from bench.graph_timing import CapturedCall, core_of
from bench.int8 import OUT_SCALE, OUT_ZERO_POINT, X_SCALE
from bench.layers import LAYERS, Layer, Workload, int8_gemm_work, int8_work
from cnnkern import Int8Conv2d, ops, reference

X_ZERO_POINT = 128
# m, n, k: square ones, a small batch through a wide layer, a projection of a transformer
SIZES = (
    (1024, 1024, 1024),
    (4096, 4096, 4096),
    (8192, 8192, 8192),
    (32, 4096, 4096),
    (3152, 3072, 768),
)


@dataclass(frozen=True)
class Int8Contest:
    """A layer of the table, u8 in and out; `wgmma`: by that core as well."""

    layer: Layer
    batch: int
    wgmma: bool = False
    arithmetic: str = "int8"

    @property
    def key(self) -> str:
        return f"{self.layer.name}, dense, batch {self.batch}, int8"

    @property
    def work(self) -> Workload:
        return int8_work(self.layer, self.batch)

    @property
    def contenders(self) -> tuple[str, ...]:
        """The calls that there are at least, by name."""
        return ("cudnn/channels_last", *on_layouts("cnnkern"))

    def run(self, flush: Tensor) -> dict:
        """Seconds of every contender; raises AssertionError where ours is not exact."""
        return measured(*self.calls(), flush)

    def calls(self) -> tuple[list[CapturedCall], dict[str, str]]:
        """Every contender, once ours is known to be exact; what failed of those by wgmma."""
        torch.backends.cudnn.benchmark = True
        layer = self.layer
        conv = nn.Conv2d(layer.C, layer.K, layer.kernel, layer.stride, layer.padding).eval()
        nn.init.normal_(conv.weight, std=layer.columns**-0.5)
        ours = Int8Conv2d.from_conv(
            conv, X_SCALE, X_ZERO_POINT, out_scale=OUT_SCALE, out_zero_point=OUT_ZERO_POINT
        ).cuda()
        stock = conv.to("cuda", torch.bfloat16, memory_format=torch.channels_last)
        x = torch.randint(256, (self.batch, layer.C, layer.H, layer.W), dtype=torch.uint8, device="cuda")

        def call(layout: str, who: str = "cnnkern") -> CapturedCall:
            image = x.contiguous(memory_format=LAYOUTS[layout])
            with core_of(who):
                self._check(ours, image[:1])
                return CapturedCall.of(f"{who}/{layout}", partial(ours, image))

        with torch.no_grad():
            real = x.to(torch.bfloat16, memory_format=torch.channels_last)
            calls = [CapturedCall.of("cudnn/channels_last", partial(stock, real)), *map(call, LAYOUTS)]
            return calls, add_wgmma(calls, partial(call, who=WGMMA), LAYOUTS if self.wgmma else ())

    def _check(self, ours: Int8Conv2d, image: Tensor) -> None:
        expected = reference.int8_conv2d(
            image.cpu(),
            ours.weight.cpu(),
            ours.bias.cpu(),
            x_scale=X_SCALE,
            x_zero_point=X_ZERO_POINT,
            weight_scale=ours.weight_scale.cpu(),
            out_scale=OUT_SCALE,
            out_zero_point=OUT_ZERO_POINT,
            stride=self.layer.stride,
            padding=self.layer.padding,
        )
        assert torch.equal(ours(image).cpu(), expected), "not the integers of the reference"


@dataclass(frozen=True)
class Int8ProductContest:
    """(m, k) times (k, n), s8, sums out; ours with a packed b, torch's with its b as it likes it best."""

    m: int
    n: int
    k: int
    wgmma: bool = False
    arithmetic: str = "int8"

    @property
    def key(self) -> str:
        return f"{self.m} x {self.n} x {self.k}, product, int8"

    @property
    def work(self) -> Workload:
        return int8_gemm_work(self.m, self.n, self.k)

    @property
    def contenders(self) -> tuple[str, ...]:
        """The calls that there are at least, by name."""
        return ("torch/columns", "cnnkern/packed")

    def run(self, flush: Tensor) -> dict:
        """Seconds of every contender; raises AssertionError where ours is not exact."""
        return measured(*self.calls(), flush)

    def calls(self) -> tuple[list[CapturedCall], dict[str, str]]:
        """Every contender, once ours is known to be exact; what failed of those that need not run."""
        a, b = (
            torch.randint(-128, 128, size, dtype=torch.int8, device="cuda")
            for size in ((self.m, self.k), (self.k, self.n))
        )
        packed, columns = ops.int8_gemm_pack(b), b.t().contiguous().t()
        expected = torch._int_mm(a, columns)

        def call(layout: str, who: str = "cnnkern") -> CapturedCall:
            with core_of(who):
                assert torch.equal(ops.int8_gemm(a, packed), expected), "not the sums of torch"
                return CapturedCall.of(f"{who}/{layout}", partial(ops.int8_gemm, a, packed))

        calls, errors = [CapturedCall.of("torch/columns", partial(torch._int_mm, a, columns))], {}
        try:
            calls.append(CapturedCall.of("torch/rows", partial(torch._int_mm, a, b)))
        except RuntimeError as error:  # cuBLAS does not have this layout everywhere
            errors["torch/rows"] = told(error)
        calls.append(call("packed"))
        return calls, errors | add_wgmma(calls, partial(call, who=WGMMA), ("packed",) if self.wgmma else ())


def int8_contests(*, wgmma: bool) -> Iterator[Int8Contest | Int8ProductContest]:
    """Every layer at every batch, and the products; `wgmma`: by that core as well."""
    for batch in BATCHES:
        for layer in LAYERS:
            yield Int8Contest(layer, batch, wgmma)
    for size in SIZES:
        yield Int8ProductContest(*size, wgmma)
