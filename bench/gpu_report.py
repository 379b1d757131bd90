"""What `make gpu` prints of a record: steps, a line for each contest, means, and what was to be reached."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import exp, log
from typing import Any

from bench.gpu_record import WGMMA

HIGH_RATIO = 4  # of a dense layer's FLOPs to a CP one's: from here on the latter is to be faster
MANY_FLOPS = 1e9  # from here on a layer is to come near the roofline
HEADS = {"ours": 10, "wgmma": 10, "stock": 10, "x": 7}
HEADS |= {"roofline": 10, "over dense": 12, "FLOPs": 7, "even at R": 11}


@dataclass(frozen=True)
class Line:
    """A contest. Seconds are those of the faster layout; `wgmma` is ours by that core, `ours` by mma; `dense`
    is cuDNN's dense layer beside one with a rank, and our own beside one with a density or a rate."""

    key: str
    suite: str
    arithmetic: str
    ours: float
    wgmma: float | None
    stock: float
    dense: float | None
    rank: int | None
    flops: int
    flop_ratio: float
    roofline: float | None  # share of what peak and bandwidth allow

    @property
    def speedup(self) -> float:
        return self.stock / self.ours

    @property
    def over_dense(self) -> float | None:
        return None if self.dense is None else self.dense / self.ours

    def __str__(self) -> str:
        line = f"{self.key:52}{self.ours * 1e6:8.1f}us"
        line += " " * 10 if self.wgmma is None else f"{self.wgmma * 1e6:8.1f}us"
        line += f"{self.stock * 1e6:8.1f}us{self.speedup:7.2f}"
        line += " " * 10 if self.roofline is None else f"{self.roofline:10.0%}"
        if self.over_dense is None:
            return line
        line += f"{self.over_dense:12.2f}{self.flop_ratio:7.1f}"
        # as if the time were proportional to the rank
        return line if self.rank is None else f"{line}{self.rank * self.over_dense:11.0f}"


def line_of(key: str, row: dict[str, Any], peaks: dict[str, float]) -> Line:
    work, seconds = row["work"], row["seconds"]
    arithmetic = key.rsplit(", ", 1)[1]
    ours, dense = best(seconds, "cnnkern"), best(seconds, "cudnn dense")
    if work["rank"] is None:
        dense = best(seconds, "cnnkern dense")
    roofline = None
    if ours and peaks.keys() >= {arithmetic, "bandwidth"}:
        least = max(work["flops"] / peaks[arithmetic], work["bytes"] / peaks["bandwidth"])
        roofline = least / ours
    return Line(
        key,
        work["suite"],
        arithmetic,
        ours,
        best(seconds, WGMMA),
        best(seconds, "cudnn", "torch"),
        dense,
        work["rank"],
        work["flops"],
        work["dense_flops"] / work["flops"],
        roofline,
    )


def best(seconds: dict[str, float], *who: str) -> float | None:
    """Of the faster layout."""
    return min((value for name, value in seconds.items() if name.split("/")[0] in who), default=None)


def show(found: dict[str, Any]) -> None:
    for name, value in found["environment"].items():
        print(f"{name}: {value}")
    for name, step in found["steps"].items():
        print(f"{name}: {step['status']} in {step['seconds']:.0f} s")
    peaks = found.get("peaks", {})
    for name, value in peaks.items():
        print(f"measured peak, {name}: {value / 1e12:.3g} T{'B' if name == 'bandwidth' else 'FLOP'}/s")
    lines, errors = [], {}
    for key, row in found["benchmarks"].items():
        if "error" in row:
            errors[key] = row["error"]
        else:
            lines.append(line_of(key, row, peaks))
            errors |= {f"{key}, {who}": error for who, error in row.get("errors", {}).items()}
    print(" " * 52 + "".join(f"{head:>{width}}" for head, width in HEADS.items()))
    for line in lines:
        print(line)
    for key, error in errors.items():
        print(f"{key:52}{(error.splitlines() or [''])[0]}")
    for group, values in grouped(lines).items():
        print(f"{group}: geometric mean {geometric_mean(values):.2f} over {len(values)}")
    for target in targets(lines):
        print(target)


def grouped(lines: list[Line]) -> dict[str, list[float]]:
    """Speed-ups by suite and arithmetic."""
    groups: dict[str, list[float]] = {}
    for line in lines:
        groups.setdefault(f"{line.suite}, {line.arithmetic}", []).append(line.speedup)
        if line.wgmma is not None:
            group = f"{line.suite}, wgmma over mma, {line.arithmetic}"
            groups.setdefault(group, []).append(line.ours / line.wgmma)
        if line.over_dense is not None and line.rank is None:
            group = f"{line.suite} over our dense layer, {line.arithmetic}"
            groups.setdefault(group, []).append(line.over_dense)
    return groups


def targets(lines: list[Line]) -> Iterator[str]:
    """What was to be reached, and what was; nothing about what was not run."""

    def of(*suites: str, arithmetics: tuple[str, ...] = ("bfloat16", "tf32", "int8")) -> list[Line]:
        return [x for x in lines if x.suite.split()[0] in suites and x.arithmetic in arithmetics]

    fused = of("cp")
    yield from mean_target("fused CP over cuDNN's four convolutions", 1.5, [x.speedup for x in fused])
    yield from share_target(
        f"fused CP over cuDNN's dense layer, FLOPs {HIGH_RATIO} times fewer or less",
        1.0,
        [x.over_dense for x in fused if x.flop_ratio > HIGH_RATIO],
    )
    near = [x.roofline for x in fused if x.flops >= MANY_FLOPS and x.roofline is not None]
    yield from share_target("fused CP, share of the roofline, 1 GFLOP and more", 0.4, near)
    saving = [x.over_dense / x.flop_ratio for x in of("column_sparse", "perforated")]
    yield from share_target("column-sparse and perforated, share of what the FLOPs save", 0.7, saving)
    yield from mean_target("dense over cuDNN", 0.7, [x.speedup for x in of("dense")])
    integers = [x for x in of("int8") if x.suite != "int8 gemm"]
    yield from mean_target("int8 convolution over cuDNN's bfloat16", 1.2, [x.speedup for x in integers])
    products = [x.speedup for x in lines if x.suite == "int8 gemm"]
    yield from mean_target("int8 product over torch._int_mm", 0.8, products)


def mean_target(what: str, least: float, values: list[float]) -> Iterator[str]:
    if values:
        mean, count = geometric_mean(values), len(values)
        yield f"{verdict(mean >= least)} {what}: at least {least}, got {mean:.2f}, geometric mean of {count}"


def share_target(what: str, least: float, values: list[float]) -> Iterator[str]:
    if values:
        reached = sum(value >= least for value in values)
        yield (
            f"{verdict(reached == len(values))} {what}: at least {least}, got that in {reached} of "
            f"{len(values)}, {min(values):.2f} to {max(values):.2f}"
        )


def verdict(reached: bool) -> str:
    return "reached:    " if reached else "not reached:"


def geometric_mean(values: list[float]) -> float:
    return exp(sum(map(log, values)) / len(values))
