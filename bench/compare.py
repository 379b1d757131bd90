"""The comparison: every layer of the table, ours against stock software, in interleaved runs."""

import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import product

import torch

from bench import contests, int8, overhead
from bench.contests import Contest
from bench.layers import BATCHES, LAYERS, Layer, Workload
from bench.results import Results, Row, Run, environment, pool
from bench.rivals.onnx_runtime import OnnxRuntime
from bench.timing import interleave, thread_count
from bench.training_memory import training_memory
from cnnkern import _C

SUITES = ("forward", "column_sparse", "perforated", "training", "int8", "int8_compressed", "overhead")
PEAK_SECONDS = 5e-3  # of every round
BANDWIDTH_SECONDS = 0.2  # of every run
BUSY = 0.5  # load average: half a core is somebody else's

Advance = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What to run and how long: `seconds` is what the rounds of one layer take in one run."""

    suites: tuple[str, ...] = SUITES
    layers: tuple[Layer, ...] = LAYERS
    batches: tuple[int, ...] = BATCHES
    gemms: tuple[tuple[int, int, int], ...] = int8.SIZES
    threads: tuple[int, ...] = tuple(sorted({1, torch.get_num_threads()}))
    runs: int = 3
    seconds: float = 2.0
    min_rounds: int = 3

    def steps(self) -> int:
        """How often `compare` calls `advance`."""
        steps = self.runs * len(self.threads) * len(self.layers) if "forward" in self.suites else 0
        if "int8" in self.suites:
            steps += self.runs * len(self.threads) * len(self.layers)
        if "int8_compressed" in self.suites:
            steps += self.runs * len(self.threads) * len(self.layers)
        if "column_sparse" in self.suites:
            steps += self.runs * len(self.layers)
        if "training" in self.suites:
            steps += self.runs * len(self.ranked) + sum(len(layer.ranks) for layer in self.ranked)
        if "perforated" in self.suites:
            steps += self.runs * len(self.threads) * len(self.perforated)
        return steps * len(self.batches)

    @property
    def ranked(self) -> tuple[Layer, ...]:
        """The layers that have a CP form."""
        return tuple(layer for layer in self.layers if layer.ranks)

    @property
    def perforated(self) -> tuple[Layer, ...]:
        """The layers that have outputs to drop."""
        return tuple(layer for layer in self.layers if layer.output_size != (1, 1))

    def describe(self) -> dict[str, object]:
        return asdict(self) | {"layers": [layer.name for layer in self.layers]}


def compare(settings: Settings, advance: Advance) -> Results:
    """Run everything that `settings` asks for; `advance` is called with a title before each layer."""
    rows, notes = [], []
    if (load := os.getloadavg()[0]) > BUSY:
        notes.append(f"The machine was busy before the start (load {load:.1f}): trust ratios, not times.")
    everybody = max(settings.threads)
    if "forward" in settings.suites:
        for threads in settings.threads:
            with thread_count(threads):
                rows += _forward(settings, threads, advance)
    with thread_count(everybody):
        if "column_sparse" in settings.suites:
            rows += _column_sparse(settings, everybody, advance)
        if "training" in settings.suites:
            rows += _training(settings, everybody, advance)
        if "overhead" in settings.suites:
            rows += _overhead(settings, everybody)
    if "int8" in settings.suites:
        for threads in settings.threads:
            with thread_count(threads):
                rows += _int8(settings, threads, advance)
    if "int8_compressed" in settings.suites:
        for threads in settings.threads:
            with thread_count(threads):
                found = _race(settings, settings.layers, threads, int8.compressed, advance)
            compressed = [(work, timed) for work, timed in found.items() if work.suite in int8.COMPRESSED]
            rows += [Row.of(work, threads, timed) for work, timed in compressed]
    if "perforated" in settings.suites:
        for threads in settings.threads:
            with thread_count(threads):
                found = _race(settings, settings.perforated, threads, contests.perforated, advance)
            # the dense layers run beside them are in the forward suite
            rows += [Row.of(work, threads, runs) for work, runs in found.items() if work.rate is not None]
    return Results(environment(), settings.describe(), rows, notes)


def _forward(settings: Settings, threads: int, advance: Advance) -> list[Row]:
    """Dense and CP layers; ONNX Runtime joins on one thread."""

    def enter(layer: Layer, batch: int) -> list[Contest]:
        entered = contests.contests(layer, batch)
        if rival is not None:
            for contest in entered:
                contest.contenders.append(rival.contender(contest.stock, contest.x))
        return entered

    with OnnxRuntime() if threads == 1 else nullcontext() as rival:
        found = _race(settings, settings.layers, threads, enter, advance)
    return [Row.of(work, threads, runs) for work, runs in found.items()]


def _int8(settings: Settings, threads: int, advance: Advance) -> list[Row]:
    """Convolutions, beside which our float32 ones run, then matrix products; ONNX Runtime joins the former on
    one thread."""

    def enter(layer: Layer, batch: int) -> list[Contest]:
        entered = int8.convolutions(layer, batch)
        if rival is not None:
            entered[1].contenders.append(rival.quantized_contender(entered[1].layer, entered[1].x))
        return entered

    with OnnxRuntime() if threads == 1 else nullcontext() as rival:
        found = _race(settings, settings.layers, threads, enter, advance)
    rows = [(work, runs) for work, runs in found.items() if work.suite != "dense"]
    return [Row.of(work, threads, runs) for work, runs in rows] + [
        _int8_gemm(settings, threads, size) for size in settings.gemms
    ]


def _int8_gemm(settings: Settings, threads: int, size: tuple[int, int, int]) -> Row:
    contest, runs = int8.gemm(*size), []
    contest.check()
    bandwidth = _C.memory_bandwidth(threads, BANDWIDTH_SECONDS)
    for _ in range(settings.runs):
        runs += _timed([contest], settings, threads, bandwidth)
    return Row.of(contest.work, threads, runs)


def _column_sparse(settings: Settings, threads: int, advance: Advance) -> list[Row]:
    """One suite for each density; the dense layers beside them are rows of the forward suite."""
    found = _race(settings, settings.layers, threads, contests.column_sparse_contests, advance)
    sparse = [(work, runs) for work, runs in found.items() if work.density is not None]
    sparse.sort(key=lambda row: -row[0].density)
    return [Row.of(work, threads, runs) for work, runs in sparse]


def _training(settings: Settings, threads: int, advance: Advance) -> list[Row]:
    def enter(layer: Layer, batch: int) -> list[Contest]:
        return [contests.training(layer, rank, batch) for rank in layer.ranks]

    found = _race(settings, settings.ranked, threads, enter, advance)
    ranked = {layer.name: layer for layer in settings.ranked}
    rows = []
    for work, runs in found.items():
        advance(f"{work.title}, batch {work.batch}, memory of a step")
        layer = ranked[work.layer]
        extra_bytes = {
            name: training_memory(layer, work.rank, work.batch, name, threads) for name in contests.STEPS
        }
        rows.append(Row.of(work, threads, runs, extra_bytes))
    return rows


def _overhead(settings: Settings, threads: int) -> list[Row]:
    rows = []
    for mode, inference in overhead.MODES.items():
        calls, runs = overhead.contenders(), []
        with inference():
            for _ in range(settings.runs):
                timings, _ = interleave(calls, seconds=settings.seconds)
                runs.append(Run({call.name: timing for call, timing in zip(calls, timings, strict=True)}))
        rows.append(Row.of(overhead.work(mode), threads, runs))
    return rows


def _race(
    settings: Settings,
    layers: tuple[Layer, ...],
    threads: int,
    enter: Callable[[Layer, int], list[Contest]],
    advance: Advance,
) -> dict[Workload, list[Run]]:
    """All runs of `layers`; the whole table is repeated, so that the runs of a layer lie minutes apart."""
    found: dict[Workload, list[Run]] = {}
    for run in range(settings.runs):
        bandwidth = _C.memory_bandwidth(threads, BANDWIDTH_SECONDS)
        for layer, batch in product(layers, settings.batches):
            advance(f"{layer.name}, batch {batch}, {pool(threads)}, run {run + 1} of {settings.runs}")
            entered = enter(layer, batch)
            if run == 0:
                for contest in entered:
                    contest.check()
            for contest, timed in zip(entered, _timed(entered, settings, threads, bandwidth), strict=True):
                found.setdefault(contest.work, []).append(timed)
    return found


def _timed(entered: list[Contest], settings: Settings, threads: int, bandwidth: float) -> Iterator[Run]:
    """One interleaved run of all contenders of one layer, handed out by contest."""
    with entered[0].mode():
        timings, peak = interleave(
            [contender for contest in entered for contender in contest.contenders],
            seconds=settings.seconds,
            min_rounds=settings.min_rounds,
            beside=lambda: _C.fma_peak(threads, PEAK_SECONDS),
        )
    remaining, dense, previous = iter(timings), None, None
    for contest in entered:
        own = {contender.name: next(remaining) for contender in contest.contenders}
        run = Run(own, peak, bandwidth)
        if contest.work.suite == "dense":  # comes first: what the layers after it replace
            dense = run
        elif contest.work.suite in int8.COMPRESSED:  # comes after the float32 layer that it stands for
            run = Run(own, peak, bandwidth, own_dense_seconds=previous.best("cnnkern"))
        elif contest.work.density is not None:
            run = Run(dense.as_rivals() | own, peak, bandwidth, over_own_dense=contest.work.over_own_dense)
        elif dense is not None:
            asks = contest.work.rate is not None or contest.work.suite == "int8"
            own_dense = dense.best("cnnkern") if asks else None
            run = Run(own, peak, bandwidth, dense.best("torch"), own_dense, contest.work.over_own_dense)
        previous = run
        yield run
