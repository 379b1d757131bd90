"""What `make gpu` times: our layers on CUDA against cuDNN, over the layer table, and those that save work
against our own dense layer as well."""

from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from bench.gpu_record import WGMMA, told
from bench.graph_timing import ARITHMETICS, CapturedCall, core_of, interleave
from bench.layers import (
    FLOAT32_BYTES,
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
FIRST_ARITHMETICS = ("bfloat16", "tf32")  # of all batches; the others of batch 16
DENSITY, RATE, SPARSE_BATCH = 0.25, 0.5, 16  # of pruned and perforated layers


@dataclass(frozen=True)
class Contest:
    """A layer of the table: dense, or of CP rank `rank`, in one arithmetic; `wgmma`: by that core as well."""

    layer: Layer
    rank: int | None
    batch: int
    arithmetic: str
    wgmma: bool = False

    @property
    def key(self) -> str:
        kind = "dense" if self.rank is None else f"R={self.rank}"
        return f"{self.layer.name}, {kind}, batch {self.batch}, {self.arithmetic}"

    @property
    def work(self) -> Workload:
        if self.rank is None:
            work = dense_work(self.layer, self.batch)
        else:
            work = cp_work(self.layer, self.rank, self.batch)
        return of_arithmetic(work, self.arithmetic)

    @property
    def contenders(self) -> tuple[str, ...]:
        """The calls that there are at least, by name."""
        return on_layouts("cnnkern", "cudnn", *["cudnn dense"] * (self.rank is not None))

    def run(self, flush: Tensor) -> dict:
        """Seconds of every contender; raises AssertionError where ours is wrong."""
        return measured(*self.calls(), flush)

    def calls(self) -> tuple[list[CapturedCall], dict[str, str]]:
        """Every contender on either layout, once ours is known to be right; what failed of those by wgmma."""
        ours, stock, dense = self._layers(ARITHMETICS[self.arithmetic][0])
        modules = {"cnnkern": ours, "cudnn": stock} | ({"cudnn dense": dense} if dense else {})
        if self.rank is None and self.arithmetic != "float32" and self.wgmma:
            modules[WGMMA] = ours
        return captured(self.layer, self.batch, self.arithmetic, modules, self._check)

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
            work = column_sparse_work(self.layer, self.density, self.batch)
        else:
            suite, kept = f"perforated {self.rate:g}", int(self._mask().sum())
            work = perforated_work(suite, self.layer, self.rate, kept, self.batch)
        return of_arithmetic(work, self.arithmetic)

    @property
    def contenders(self) -> tuple[str, ...]:
        """The calls that there are, by name."""
        return on_layouts("cnnkern", "cnnkern dense", "cudnn", "cudnn dense")

    def run(self, flush: Tensor) -> dict:
        """Seconds of every contender; raises AssertionError where ours is wrong."""
        return measured(*self.calls(), flush)

    def calls(self) -> tuple[list[CapturedCall], dict[str, str]]:
        """Every contender on either layout, once ours is known to be right; what failed of those by wgmma."""
        layer = self.layer
        shape = (layer.C, layer.K, layer.kernel, layer.stride, layer.padding)
        dense = nn.Conv2d(*shape, device="cuda", dtype=ARITHMETICS[self.arithmetic][0]).eval()
        modules = {
            "cnnkern": self._of(dense),
            "cnnkern dense": Im2colConv2d.from_conv(dense).eval(),
            "cudnn": self._of(dense).to_stock().eval(),
            "cudnn dense": dense,
        }
        return captured(layer, self.batch, self.arithmetic, modules, self._check)

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


def on_layouts(*who: str) -> tuple[str, ...]:
    return tuple(f"{each}/{layout}" for layout in LAYOUTS for each in who)


def of_arithmetic(work: Workload, arithmetic: str) -> Workload:
    """`work`, whose bytes are those of float32, in another arithmetic."""
    return replace(work, bytes=work.bytes * ARITHMETICS[arithmetic][0].itemsize // FLOAT32_BYTES)


def captured(
    layer: Layer,
    batch: int,
    arithmetic: str,
    modules: dict[str, nn.Module],
    check: Callable[[nn.Module, Tensor, float], None],
) -> tuple[list[CapturedCall], dict[str, str]]:
    """Calls "name/layout" of each of `modules` on either layout; stock ones have their weights in that layout
    too. The first one, and WGMMA, go through `check(module, input, spacing of operands)` before; where WGMMA
    fails, its error by its name instead of its call."""
    dtype, tf32, eps = ARITHMETICS[arithmetic]
    torch.backends.cudnn.conv.fp32_precision = "tf32" if tf32 else "ieee"
    # a stock layer may be a product
    torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.conv.fp32_precision
    x = torch.randn(batch, layer.C, layer.H, layer.W, device="cuda", dtype=dtype)

    def call(who: str, layout: str, checked: bool) -> CapturedCall:
        image = x.contiguous(memory_format=LAYOUTS[layout])
        ours, module = who.startswith("cnnkern"), modules[who]
        laid_out = module if ours else deepcopy(module).to(memory_format=LAYOUTS[layout])
        with core_of(who), torch.no_grad():
            if checked:
                torch.backends.cudnn.benchmark = False  # the reference is cuDNN's in float64: any will do
                check(module, image, eps)
            torch.backends.cudnn.benchmark = True
            return CapturedCall.of(f"{who}/{layout}", partial(laid_out, image))

    first, *others = (who for who in modules if who != WGMMA)
    calls = [call(who, layout, who == first) for layout in LAYOUTS for who in (first, *others)]
    return calls, add_wgmma(
        calls, lambda layout: call(WGMMA, layout, True), LAYOUTS if WGMMA in modules else ()
    )


def add_wgmma(
    calls: list[CapturedCall], make: Callable[[str], CapturedCall], layouts: Iterable[str]
) -> dict[str, str]:
    """Add those by wgmma to the calls. Its errors by name: what is younger than the rest does not end it."""
    errors = {}
    for layout in layouts:
        try:
            calls.append(make(layout))
        except (AssertionError, RuntimeError) as error:
            errors[f"{WGMMA}/{layout}"] = told(error)
    return errors


def measured(calls: list[CapturedCall], errors: dict[str, str], flush: Tensor) -> dict[str, dict]:
    """Median seconds by name, and `errors`, if there are any."""
    seconds = {name: timing.median for name, timing in interleave(calls, ROUNDS, flush).items()}
    return {"seconds": seconds} | ({"errors": errors} if errors else {})


def all_contests(*, wgmma: bool) -> Iterator[Contest | SparseContest]:
    """Every layer in every arithmetic; `wgmma`: by that core as well."""
    for arithmetic in ARITHMETICS:
        for batch in BATCHES if arithmetic in FIRST_ARITHMETICS else BATCHES[1:2]:
            yield from _contests(arithmetic, batch, wgmma)


def _contests(arithmetic: str, batch: int, wgmma: bool) -> Iterator[Contest | SparseContest]:
    for layer in LAYERS:
        for rank in (*layer.ranks, None):
            yield Contest(layer, rank, batch, arithmetic, wgmma)
        if arithmetic in FIRST_ARITHMETICS and batch == SPARSE_BATCH:
            yield SparseContest(layer, DENSITY, None, batch, arithmetic)
            yield SparseContest(layer, None, RATE, batch, arithmetic)
