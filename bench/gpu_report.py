"""What `make gpu` prints of a record: steps, a line for each contest, means, and what was to be reached.

It reads the record alone: `python -m bench.gpu_report FILE` prints that of another machine."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.gpu_line import Line, geometric_mean, lines_of
from bench.gpu_targets import HEAD, TARGETS, missed_by, said_of

WIDTH = 130
NAMES = 50  # width of the contests' names
LEGEND = """
us: microseconds of a captured call, the median, in the faster layout, with its operands not in the cache
ours: by mma; wgmma: the same by that core; stock: cuDNN, of a CP layer its four convolutions, of int8 the
  bfloat16 one; of column-sparse and perforated layers what stock PyTorch computes the same with; of a
  product torch._int_mm
x ...: how many times faster ours is than stock; than cuDNN's layer without the approximation (dense); than
  our own such layer (own)
roofline: share of the speed that the measured peaks allow for the call's own FLOPs and bytes
FLOPs: those without the approximation over those with it
even R: the CP rank that would take as long as cuDNN's dense layer, were time proportional to the rank
below: the targets, by number, that this contest alone is below
"""


class Column(NamedTuple):
    head: str
    width: int
    form: str  # of its values
    value: Callable[[Line], Any]


COLUMNS = (
    Column("ours us", 9, ".1f", lambda x: microseconds(x.ours)),
    Column("wgmma us", 9, ".1f", lambda x: microseconds(x.wgmma)),
    Column("stock us", 9, ".1f", lambda x: microseconds(x.stock)),
    Column("x stock", 8, ".2f", lambda x: x.over_stock),
    Column("roofline", 9, ".0%", lambda x: x.roofline),
    Column("x dense", 8, ".2f", lambda x: x.over_cudnn_dense),
    Column("x own", 7, ".2f", lambda x: x.over_own_dense),
    Column("FLOPs", 6, ".1f", lambda x: None if x.over_cudnn_dense is None else x.flop_ratio),
    Column("even R", 7, ".0f", lambda x: x.even_rank),
    Column("below", 7, "", lambda x: ",".join(map(str, missed_by(x)))),
)
MEANS = (
    Column("x stock", 9, ".2f", lambda x: x.over_stock),
    Column("wgmma x stock", 15, ".2f", lambda x: x.wgmma_over_stock),
    Column("wgmma x ours", 14, ".2f", lambda x: x.wgmma_over_ours),
    Column("x dense", 9, ".2f", lambda x: x.over_cudnn_dense),
    Column("x own", 9, ".2f", lambda x: x.over_own_dense),
    Column("roofline", 10, ".0%", lambda x: x.roofline),
)


def show(found: dict[str, Any]) -> None:
    for line in (*facts(found), *results(found)):
        print(line.rstrip())


def facts(found: dict[str, Any]) -> Iterator[str]:
    """The machine, and each step with the last that it said: of tests, how many passed and were skipped."""
    for name, value in found["environment"].items():
        yield f"{name}: {value}"
    if "clocks under load" in found:
        yield f"the same under load: {found['clocks under load']}"
    for name, step in found["steps"].items():
        said = last_line(step.get("output", ""))
        yield f"{name}: {step['status']} in {step['seconds']:.0f} s{': ' * bool(said)}{said}"[:WIDTH]
    for name, value in found.get("peaks", {}).items():
        unit = {"bandwidth": "TB/s", "int8": "TOP/s"}.get(name, "TFLOP/s")
        yield f"measured peak, {name}: {value / 1e12:.4g} {unit}"


def last_line(text: str) -> str:
    return next((line.strip(" =") for line in reversed(text.splitlines()) if line.strip(" =")), "")


def results(found: dict[str, Any]) -> Iterator[str]:
    lines = list(lines_of(found))
    run = [line for line in lines if line.ours is not None]
    if run:
        yield from LEGEND.splitlines()
        yield head("", COLUMNS)
        for line in run:
            yield cells(line.key, COLUMNS, (column.value(line) for column in COLUMNS))
    errors = dict(errors_of(found["benchmarks"]))
    for key, error in errors.items():
        yield f"error: {key}: {(error.splitlines() or [''])[0]}"[:WIDTH]
    if run:
        yield ""
        yield head("geometric means", MEANS)
        yield from means(lines)
    yield ""
    yield f"{len(run)} of {len(lines) or '?'} contests have a result; errors: {len(errors)}"
    yield from HEAD
    for number, target in enumerate(TARGETS, 1):
        yield said_of(number, target, lines)


def errors_of(benchmarks: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Of contests that ended with one, and of contenders that did not end theirs."""
    for key, row in benchmarks.items():
        if "error" in row:
            yield key, row["error"]
        for who, error in row.get("errors", {}).items():
            yield f"{key}, {who}", error


def means(lines: list[Line]) -> Iterator[str]:
    """By suite, batch and arithmetic, of the contests that have a value in the column."""
    groups: dict[tuple, list[Line]] = {}
    for line in lines:
        groups.setdefault((line.suite, line.arithmetic, line.work["batch"]), []).append(line)
    for _, members in sorted(groups.items()):
        run = sum(line.ours is not None for line in members)
        known = [[value for x in members if (value := column.value(x)) is not None] for column in MEANS]
        values = [geometric_mean(each) if each else None for each in known]
        yield cells(f"{members[0].group}: {run} of {len(members)}", MEANS, values)


def head(title: str, columns: Sequence[Column]) -> str:
    return f"{title:{NAMES}}" + "".join(f"{column.head:>{column.width}}" for column in columns)


def cells(title: str, columns: Sequence[Column], values: Iterable[Any]) -> str:
    """A line of a table; nothing for None."""
    printed = (
        f"{'' if value is None else format(value, column.form):>{column.width}}"
        for column, value in zip(columns, values, strict=True)
    )
    return f"{title:{NAMES}}" + "".join(printed)


def microseconds(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e6


if __name__ == "__main__":
    show(json.loads(Path(sys.argv[1]).read_text()))
