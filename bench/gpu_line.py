"""A contest of `make gpu` as its record has it: what it was to compute, and what came of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import exp, log
from typing import Any

from bench.gpu_record import WGMMA


@dataclass(frozen=True)
class Line:
    """`work`: of one call, for the whole batch (bench.layers.Workload); `seconds` by "contender/layout",
    empty where there is no result; `peaks`: FLOP/s by arithmetic, and "bandwidth" in bytes per second.

    Of every contender the faster layout counts. `ours` is by the core mma; a ratio above 1 says that ours is
    faster, and is None where one of the two was not run.
    """

    key: str
    work: dict[str, Any]
    seconds: dict[str, float]
    peaks: dict[str, float]

    @property
    def suite(self) -> str:
        return self.work["suite"]

    @property
    def group(self) -> str:
        """Its suite, batch and arithmetic; a product has no batch."""
        batch = "" if self.suite == "int8 gemm" else f", batch {self.work['batch']}"
        return f"{self.suite}{batch}, {self.arithmetic}"

    @property
    def arithmetic(self) -> str:
        return self.key.rsplit(", ", 1)[1]

    @property
    def ours(self) -> float | None:
        return self._best("cnnkern")

    @property
    def wgmma(self) -> float | None:
        return self._best(WGMMA)

    @property
    def stock(self) -> float | None:
        """cuDNN's: of a CP layer its four convolutions, of int8 the bfloat16 one; of a product torch's."""
        return self._best("cudnn", "torch")

    @property
    def over_stock(self) -> float | None:
        return ratio(self.stock, self.ours)

    @property
    def wgmma_over_stock(self) -> float | None:
        return ratio(self.stock, self.wgmma)

    @property
    def wgmma_over_ours(self) -> float | None:
        return ratio(self.ours, self.wgmma)

    @property
    def over_cudnn_dense(self) -> float | None:
        """Over the layer without an approximation."""
        return ratio(self._best("cudnn dense"), self.ours)

    @property
    def over_own_dense(self) -> float | None:
        return ratio(self._best("cnnkern dense"), self.ours)

    @property
    def flop_ratio(self) -> float:
        """FLOPs without an approximation over those with it."""
        return self.work["dense_flops"] / self.work["flops"]

    @property
    def saving(self) -> float | None:
        """How many times faster than our own dense layer, as a share of what the FLOPs alone would give."""
        return ratio(self.over_own_dense, self.flop_ratio)

    @property
    def roofline(self) -> float | None:
        """Share of what the measured peaks allow: the longer of the times for its FLOPs and for its bytes."""
        if self.ours is None or not self.peaks.keys() >= {self.arithmetic, "bandwidth"}:
            return None
        compute = self.work["flops"] / self.peaks[self.arithmetic]
        return max(compute, self.work["bytes"] / self.peaks["bandwidth"]) / self.ours

    @property
    def even_rank(self) -> float | None:
        """The CP rank that would take as long as cuDNN's dense layer, were time proportional to the rank."""
        rank, faster = self.work["rank"], self.over_cudnn_dense
        return None if rank is None or faster is None else rank * faster

    def _best(self, *who: str) -> float | None:
        return min((value for name, value in self.seconds.items() if name.split("/")[0] in who), default=None)


def lines_of(found: dict[str, Any]) -> Iterator[Line]:
    """All contests of a record, those without a result too, in the order in which they were to run."""
    for key, work in found.get("contests", {}).items():
        row = found["benchmarks"].get(key, {})
        yield Line(key, work, row.get("seconds", {}), found.get("peaks", {}))


def ratio(other: float | None, ours: float | None) -> float | None:
    return None if other is None or ours is None else other / ours


def geometric_mean(values: list[float]) -> float:
    return exp(sum(map(log, values)) / len(values))
