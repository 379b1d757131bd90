"""What `make gpu` times: our layers on CUDA against cuDNN, over the layer table, and those that save work
against our own dense layer as well."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor, nn

from bench.graph_timing import CapturedCall, interleave
from bench.layers import (
    LAYERS,
    Layer,
    Workload,
    column_sparse_work,
    cp_work,
    dense_work,
    perforated_work,
)
from cnnkern import ColumnSparseConv2d, CPConv2d, Im2colConv2d, PerforatedConv2d, perforation, reference

BATCHES = (1, 16, 64)
ROUNDS = 15
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
# name of an arithmetic: dtype, whether TF32 is allowed, relative spacing of what goes into products
ARITHMETICS = {
    "bfloat16": (torch.bfloat16, False, torch.finfo(torch.bfloat16).eps),
    "tf32": (torch.float32, True, 2.0**-10),
    "float32": (torch.float32, False, 0.0),
    "float16": (torch.float16, False, torch.finfo(torch.float16).eps),
}
FIRST_ARITHMETICS = ("bfloat16", "tf32")  # of all batches; the others of batch 16
DENSITY, RATE, SPARSE_BATCH = 0.25, 0.5, 16  # of pruned and perforated layers


@dataclass(frozen=True)
class Contest:
    """A layer of the table: dense, or of CP rank `rank`, in one arithmetic."""

    layer: Layer
    rank: int | None
    batch: int
    arithmetic: str

    @property
    def key(self) -> str:
        kind = "dense" if self.rank is None else f"R={self.rank}"
        return f"{self.layer.name}, {kind}, batch {self.batch}, {self.arithmetic}"

    @property
    def work(self) -> Workload:
        if self.rank is None:
            return dense_work(self.layer, self.batch)
        return cp_work(self.layer, self.rank, self.batch)

    def run(self, flush: Tensor) -> dict:
        """Seconds of every contender, and what they computed; raises AssertionError where ours is wrong."""
        ours, stock, dense = self._layers(ARITHMETICS[self.arithmetic][0])
        modules = {"cnnkern": ours, "cudnn": stock} | ({"cudnn dense": dense} if dense else {})
        seconds = measure(self.layer, self.batch, self.arithmetic, modules, self._check, flush)
        return {"work": asdict(self.work), "seconds": seconds}

    def _layers(self, dtype: torch.dtype) -> tuple[nn.Module, nn.Module, nn.Module | None]:
        """Ours, what stock PyTorch has in its place, and the dense layer that a CP one approximates."""
        layer = self.layer
        where = {"device": "cuda", "dtype": dtype}
        shape = (layer.C, layer.K, layer.kernel, layer.stride, layer.padding)
        dense = nn.Conv2d(*shape, **where).eval()
        if self.rank is None:
            return Im2colConv2d.from_conv(dense).eval(), dense, None
        ours = CPConv2d(*shape, rank=self.rank, **where).eval()
        return ours, ours.to_stock().eval(), dense

    def _check(self, ours: nn.Module, image: Tensor, eps: float) -> None:
        operation: Callable[..., Tensor] = reference.conv2d
        weights = [ours.weight] if self.rank is None else []
        if self.rank is not None:
            operation = reference.cp_conv2d
            weights = [ours.factor_c, ours.factor_h, ours.factor_w, ours.factor_k]
        options = {"stride": ours.stride, "padding": ours.padding}
        arguments = (image[:1], *weights, ours.bias)
        reference.assert_within_mixed_bound(ours(image)[:1], operation, eps, *arguments, **options)


@dataclass(frozen=True)
class SparseContest:
    """A layer of the table with a share `density` of its columns, or with the share `rate` of its outputs
    dropped."""

    layer: Layer
    density: float | None
    rate: float | None
    batch: int
    arithmetic: str

    @property
    def key(self) -> str:
        kind = f"density {self.density:g}" if self.rate is None else f"rate {self.rate:g}"
        return f"{self.layer.name}, {kind}, batch {self.batch}, {self.arithmetic}"

    @property
    def work(self) -> Workload:
        if self.rate is None:
            return column_sparse_work(self.layer, self.density, self.batch)
        suite, kept = f"perforated {self.rate:g}", int(self._mask().sum())
        return perforated_work(suite, self.layer, self.rate, kept, self.batch)

    def run(self, flush: Tensor) -> dict:
        """Seconds of every contender, and what they computed; raises AssertionError where ours is wrong."""
        layer = self.layer
        shape = (layer.C, layer.K, layer.kernel, layer.stride, layer.padding)
        dense = nn.Conv2d(*shape, device="cuda", dtype=ARITHMETICS[self.arithmetic][0]).eval()
        modules = {
            "cnnkern": self._of(dense),
            "cnnkern dense": Im2colConv2d.from_conv(dense).eval(),
            "cudnn": self._of(dense).to_stock().eval(),
            "cudnn dense": dense,
        }
        seconds = measure(layer, self.batch, self.arithmetic, modules, self._check, flush)
        return {"work": asdict(self.work), "seconds": seconds}

    def _mask(self) -> Tensor:
        return perforation.uniform(self.layer.output_size, self.rate)

    def _of(self, dense: nn.Conv2d) -> nn.Module:
        if self.rate is not None:
            return PerforatedConv2d.from_conv(dense, self._mask()).eval()
        torch.manual_seed(0)
        kept = self.layer.kept_columns(self.density)
        columns = torch.rand(self.layer.columns).topk(kept).indices.sort().values
        return ColumnSparseConv2d.from_conv(dense, columns=columns).eval()

    def _check(self, ours: nn.Module, image: Tensor, eps: float) -> None:
        options = {"stride": ours.stride, "padding": ours.padding}
        if self.rate is not None:
            operation, which = reference.perforated_conv2d, ours.mask
        else:
            operation, which = reference.column_sparse_conv2d, ours.columns
            options["kernel_size"] = ours.kernel_size
        arguments = (image[:1], ours.weight, which, ours.bias)
        reference.assert_within_mixed_bound(ours(image)[:1], operation, eps, *arguments, **options)


def measure(
    layer: Layer,
    batch: int,
    arithmetic: str,
    modules: dict[str, nn.Module],
    check: Callable[[nn.Module, Tensor, float], None],
    flush: Tensor,
) -> dict[str, float]:
    """Median seconds of each of `modules` on either layout, by "name/layout"; stock ones have their weights
    in that layout too. The first one goes through `check(module, input, spacing of operands)` before."""
    dtype, tf32, eps = ARITHMETICS[arithmetic]
    torch.backends.cudnn.conv.fp32_precision = "tf32" if tf32 else "ieee"
    torch.backends.cudnn.benchmark = True
    x = torch.randn(batch, layer.C, layer.H, layer.W, device="cuda", dtype=dtype)
    calls = []
    with torch.no_grad():
        for name, memory_format in LAYOUTS.items():
            image = x.contiguous(memory_format=memory_format)
            check(next(iter(modules.values())), image, eps)
            for who, module in modules.items():
                ours = who.startswith("cnnkern")
                laid_out = module if ours else deepcopy(module).to(memory_format=memory_format)
                calls.append(CapturedCall.of(f"{who}/{name}", partial(laid_out, image)))
        timings = interleave(calls, ROUNDS, flush)
    return {name: timing.median for name, timing in timings.items()}


def all_contests() -> Iterator[Contest | SparseContest]:
    """The most telling first: where the time does not suffice, the end of the list is what is missing."""
    for arithmetic in ARITHMETICS:
        for batch in BATCHES if arithmetic in FIRST_ARITHMETICS else BATCHES[1:2]:
            yield from _contests(arithmetic, batch)


def _contests(arithmetic: str, batch: int) -> Iterator[Contest | SparseContest]:
    for layer in LAYERS:
        for rank in (*layer.ranks, None):
            yield Contest(layer, rank, batch, arithmetic)
        if arithmetic in FIRST_ARITHMETICS and batch == SPARSE_BATCH:
            yield SparseContest(layer, DENSITY, None, batch, arithmetic)
            yield SparseContest(layer, None, RATE, batch, arithmetic)
