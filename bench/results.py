"""What the benchmarks leave behind: rows, their ratios, the machine, and the JSON file that keeps them."""

import json
import re
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from math import exp, log
from pathlib import Path
from statistics import fmean, median

import torch

from bench.layers import Workload
from bench.timing import Timing
from cnnkern import _C
from cnnkern.compression.machine import cpu_name

SCHEMA = 1
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Run:
    """One interleaved run: a timing per contender, and the ceilings measured beside them.

    `dense_seconds`, for a layer that approximates a dense one: that one by torch, in its best layout;
    `own_dense_seconds`: that one by us. `over_own_dense`, for a column-sparse or perforated one: how many
    times faster than ours it would be in proportion.
    """

    timings: dict[str, Timing]
    peak_gflops: float | None = None
    bandwidth_gbs: float | None = None
    dense_seconds: float | None = None
    own_dense_seconds: float | None = None
    over_own_dense: float | None = None

    def as_rivals(self) -> dict[str, Timing]:
        """The timings of a dense contest as those of another one's rivals: our layer becomes dense/layout."""
        return {name.replace("cnnkern/", "dense/"): timing for name, timing in self.timings.items()}

    def best(self, who: str) -> float:
        """Seconds of the fastest layout of `who`."""
        return min(timing.median for name, timing in self.timings.items() if maker(name) == who)

    def ratios(self) -> dict[str, float]:
        """Times faster: torch's best layout over each of ours, other rivals over the best of ours."""
        ours, torch_best = self.best("cnnkern"), self.best("torch")
        ratios = {
            name.split("/")[1]: torch_best / timing.median
            for name, timing in self.timings.items()
            if maker(name) == "cnnkern"
        }
        ratios["best"] = torch_best / ours
        if "onnxruntime" in self.timings:
            ratios["onnxruntime"] = self.best("onnxruntime") / ours
        if self.dense_seconds is not None:
            ratios["over_dense"] = self.dense_seconds / ours
        if self.own_dense_seconds is not None:
            ratios["over_own_dense"] = self.own_dense_seconds / ours
            if self.over_own_dense is not None:
                ratios["in_proportion"] = ratios["over_own_dense"] / self.over_own_dense
        elif self.over_own_dense is not None:
            for name in ("contiguous", "channels_last"):
                own = self.timings[f"dense/{name}"].median / self.timings[f"cnnkern/{name}"].median
                ratios[f"in_proportion_{name}"] = own / self.over_own_dense
        return ratios


@dataclass(frozen=True)
class Entry:
    """One contender, medians over the runs; `spread` is the largest relative deviation (MAD) of a run."""

    seconds: float
    spread: float
    runs: list[float]
    gflops: float
    gbs: float
    share_of_peak: float | None

    @classmethod
    def of(cls, timings: list[Timing], work: Workload, peak_gflops: float | None) -> "Entry":
        runs = [timing.median for timing in timings]
        seconds = median(runs)
        gflops = work.flops / seconds / 1e9
        return cls(
            seconds=seconds,
            spread=max(timing.deviation / timing.median for timing in timings),
            runs=runs,
            gflops=gflops,
            gbs=work.bytes / seconds / 1e9,
            share_of_peak=gflops / peak_gflops if peak_gflops else None,
        )


@dataclass(frozen=True)
class Row:
    """A workload after all its runs; each ratio is the median of the runs' ratios, above 1 in our favour.

    `extra_bytes`: peak extra memory of a training step by contender; its ratio compares each side's leanest.
    """

    work: Workload
    threads: int
    peak_gflops: float | None
    bandwidth_gbs: float | None
    dense_seconds: float | None
    contenders: dict[str, Entry]
    ratios: dict[str, float]
    extra_bytes: dict[str, int]

    @classmethod
    def of(
        cls, work: Workload, threads: int, runs: list[Run], extra_bytes: dict[str, int] | None = None
    ) -> "Row":
        peak = _median(run.peak_gflops for run in runs)
        ratios = {key: median(run.ratios()[key] for run in runs) for key in runs[0].ratios()}
        if extra_bytes:
            ratios["extra_memory"] = least(extra_bytes, "torch") / least(extra_bytes, "cnnkern")
        return cls(
            work=work,
            threads=threads,
            peak_gflops=peak,
            bandwidth_gbs=_median(run.bandwidth_gbs for run in runs),
            dense_seconds=_median(run.dense_seconds for run in runs),
            contenders={
                name: Entry.of([run.timings[name] for run in runs], work, peak) for name in runs[0].timings
            },
            ratios=ratios,
            extra_bytes=extra_bytes or {},
        )

    def best(self, who: str) -> str | None:
        """The contender that is the fastest layout of `who`; None where `who` takes no part."""
        names = [name for name in self.contenders if maker(name) == who]
        return min(names, key=lambda name: self.contenders[name].seconds, default=None)


@dataclass(frozen=True)
class Summary:
    """One ratio over the layers of a suite: its geometric mean, and the layer where it is least."""

    suite: str
    batch: int
    threads: int
    ratio: str
    geometric_mean: float
    least: float
    least_layer: str


@dataclass(frozen=True)
class Results:
    """All that one run of the comparison found."""

    environment: dict[str, str | int]
    settings: dict[str, object]
    rows: list[Row]
    notes: list[str]

    @property
    def summary(self) -> list[Summary]:
        return summarize(self.rows)

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        document = {"schema": SCHEMA, **asdict(self), "summary": [asdict(line) for line in self.summary]}
        path.write_text(json.dumps(document, indent=1) + "\n")


def summarize(rows: Iterable[Row]) -> list[Summary]:
    groups: dict[tuple[str, int, int, str], list[tuple[float, str]]] = {}
    for row in rows:
        for ratio, value in row.ratios.items():
            key = (row.work.suite, row.work.batch, row.threads, ratio)
            groups.setdefault(key, []).append((value, row.work.title))
    return [
        Summary(*key, geometric_mean(value for value, _ in values), *min(values))
        for key, values in groups.items()
    ]


def maker(contender: str) -> str:
    """ "torch" of "torch/channels_last"."""
    return contender.split("/")[0]


def geometric_mean(values: Iterable[float]) -> float:
    return exp(fmean(log(value) for value in values))


def environment() -> dict[str, str | int]:
    """What the numbers depend on."""
    build = _C.build_info()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "cnnkern": build["version"],
        "compiler": build["compiler"],
        "isa": _C.current_isa(),
        "torch": torch.__version__,
        "onnxruntime": _version("onnxruntime"),
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def machine_slug() -> str:
    """The machine as a file name: CPU, threads."""
    words = re.sub(r"\((R|TM)\)|CPU|Processor|@ [0-9.]+GHz", " ", cpu_name())
    return "-".join(re.findall(r"[a-z0-9.]+", f"{words} {pool(torch.get_num_threads())}".lower()))


def pool(threads: int) -> str:
    """Threads in words."""
    return f"{threads} thread{'s' * (threads != 1)}"


def _commit() -> str:
    """With "-dirty" when the work tree differs from it; "unknown" outside a git checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(command, cwd=RESULTS.parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _median(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return median(present) if present else None


def least(extra_bytes: dict[str, int], who: str) -> int:
    """Of the leaner layout of `who`."""
    return min(size for name, size in extra_bytes.items() if maker(name) == who)
