"""What was to be reached on a GPU, and whether it was."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from bench.gpu_line import Line, geometric_mean

TENSOR_CORES = ("bfloat16", "tf32")
HIGH_RATIO = 4  # of a dense layer's FLOPs to a CP one's: above it the latter is to be faster
# FLOPs of one call of a CP layer, from which on it is to come near the roofline. They are those of its own
# four stages, as are the roofline's, not of the dense layer that it approximates; for the whole batch; two
# for a multiply-add, padding counted: ConvolutionCost.cp_flops.
MANY_FLOPS = 1e9
HEAD = (
    "targets: ours by mma, in bfloat16 and TF32 unless int8; FLOPs are those of a call, for the whole batch, "
    "a multiply-add two",
    f"{'':83}{'at least':>9}{'got':>27}{'run':>10}",
)


class Judgement(NamedTuple):
    verdict: str
    got: str
    run: int
    contests: int


@dataclass(frozen=True)
class Target:
    """`value` of the contests that `takes` takes is to be at least `least`: in each of them where `each`,
    else in the geometric mean."""

    what: str
    least: float
    takes: Callable[[Line], bool]
    value: Callable[[Line], float | None]
    each: bool = False

    def missed_by(self, line: Line) -> bool:
        """Whether this contest alone is below."""
        value = self.value(line) if self.takes(line) else None
        return value is not None and value < self.least

    def judge(self, lines: list[Line]) -> Judgement:
        """Where some contests have no result, it is incomplete at best."""
        contests = [line for line in lines if self.takes(line)]
        values = [value for line in contests if (value := self.value(line)) is not None]
        counts = len(values), len(contests)
        if not values:
            return Judgement("not run", "-", *counts)
        mean, above = geometric_mean(values), sum(value >= self.least for value in values)
        if self.each:
            reached = above == len(values)
            got = f"in {above} of {len(values)}: {min(values):.2f} to {max(values):.2f}"
        else:
            reached = mean >= self.least
            got = f"geometric mean {mean:.2f}"
        all_run = len(values) == len(contests)
        verdict = ("reached" if all_run else "incomplete") if reached else "not reached"
        return Judgement(verdict, got, *counts)


def said_of(number: int, target: Target, lines: list[Line]) -> str:
    """A line, whatever was run."""
    verdict, got, run, contests = target.judge(lines)
    counts = f"{run} of {contests}" if contests else "-"
    return f"{verdict + ':':13}{number} {target.what:68}{target.least:9.1f}{got:>27}{counts:>10}"


def missed_by(line: Line) -> list[int]:
    """The numbers of the targets that this contest alone is below."""
    return [number for number, target in enumerate(TARGETS, 1) if target.missed_by(line)]


def of(*suites: str, arithmetics: tuple[str, ...] = TENSOR_CORES) -> Callable[[Line], bool]:
    return lambda line: line.suite in suites and line.arithmetic in arithmetics


def of_cp(more: Callable[[Line], bool]) -> Callable[[Line], bool]:
    return lambda line: of("cp")(line) and more(line)


def saves_work(line: Line) -> bool:
    """Of columns or outputs, not of ranks; a single output is none that could be dropped. Every density and
    rate is a suite of its own."""
    approximation = line.suite.split()[0] in ("column_sparse", "perforated")
    return approximation and line.arithmetic in TENSOR_CORES and line.flop_ratio > 1


TARGETS = (
    Target("fused CP over cuDNN's four convolutions", 1.5, of("cp"), lambda x: x.over_stock),
    Target(
        f"fused CP over cuDNN's dense layer of over {HIGH_RATIO} times its FLOPs",
        1.0,
        of_cp(lambda x: x.flop_ratio > HIGH_RATIO),
        lambda x: x.over_cudnn_dense,
        each=True,
    ),
    Target(
        f"fused CP, share of the roofline, from {MANY_FLOPS / 1e9:g} GFLOP in its own four stages",
        0.4,
        of_cp(lambda x: x.work["flops"] >= MANY_FLOPS),
        lambda x: x.roofline,
        each=True,
    ),
    Target(
        "column-sparse, perforated over our dense, share of the FLOP ratio",
        0.7,
        saves_work,
        lambda x: x.saving,
        each=True,
    ),
    Target("dense over cuDNN", 0.7, of("dense"), lambda x: x.over_stock),
    Target(
        "int8 convolution over cuDNN's in bfloat16, channels_last",
        1.2,
        of("int8", arithmetics=("int8",)),
        lambda x: x.over_stock,
    ),
    Target(
        "int8 product over torch._int_mm",
        0.8,
        of("int8 gemm", arithmetics=("int8",)),
        lambda x: x.over_stock,
    ),
)
