"""The tables that a person reads."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

from rich import box
from rich.console import Console
from rich.table import Table

from bench import int8, overhead
from bench.layers import DENSITIES, RATES
from bench.results import Results, Row, Summary, least, pool, summarize

REPORT_WIDTH = 130  # what the widest table needs

LAYOUTS = {"contiguous": "NCHW", "channels_last": "NHWC", "channels_last_weights": "NHWC+"}
LEGEND = """\
ms: median of the runs, torch in its fastest layout (NHWC+: the weights in that format too).
x: how many times faster than that, median of the runs' ratios; below 1 is a loss. ORT, dense: our faster
layout against ONNX Runtime and against torch's dense layer; own: against our own dense layer; FLOPs: what
arithmetic alone would give there.
%: share of the FMA rate measured beside it. GFLOP/s and GB/s (compulsory traffic): our faster layout.
extra MB: peak of a training step above input, parameters and gradient of the output, the leaner layout;
needed: output and gradients, which every step holds; beyond: what ours holds besides them, in percent of
what torch does. Column-sparse, /p: times faster than our dense layer in the same layout, over what
arithmetic alone would give; for layers with 512 columns or more. Perforated, /(1-r): the same of the faster
layouts."""


@dataclass(frozen=True)
class Column:
    """`ratio` names the ratio whose summary closes the column."""

    heading: str
    cell: Callable[[Row], str]
    ratio: str | None = None


def show(results: Results, console: Console) -> None:
    where = results.environment
    console.print(
        f"[b]{where['cpu']}[/], {where['isa']}; cnnkern {where['cnnkern']} at {where['commit']}, "
        f"torch {where['torch']}, ONNX Runtime {where['onnxruntime']}, {where['compiler']}\n"
    )
    for (suite, threads, batch), rows in groupby(sorted(results.rows, key=_section), _section):
        title, columns = list(SUITES.values())[suite]
        console.print(_table(f"{title}. Batch {batch}, {pool(threads)}", columns, list(rows)))
    console.print(f"[dim]{LEGEND}[/]")
    for note in results.notes:
        console.print(f"[yellow]{note}[/]")


def _section(row: Row) -> tuple[int, int, int]:
    return list(SUITES).index(row.work.suite), row.threads, row.work.batch


def _table(title: str, columns: list[Column], rows: list[Row]) -> Table:
    """A line per row, then geometric mean and least of the ratios; columns without a value are left out."""
    columns = [column for column in columns if any(column.cell(row) for row in rows)]
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.caption, table.caption_justify = _ceilings(rows), "left"
    for column in columns:
        table.add_column(column.heading, justify="left" if column is LAYER else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(column.cell(row) for column in columns))
    summary = {line.ratio: line for line in summarize(rows)}
    if any(column.ratio for column in columns):
        table.add_section()
        table.add_row(*_closing(columns, summary, "geometric mean", lambda line: line.geometric_mean))
        table.add_row(*_closing(columns, summary, "least", lambda line: line.least))
    return table


def _closing(
    columns: list[Column], summary: dict[str, Summary], name: str, value: Callable[[Summary], float]
) -> list[str]:
    def cell(column: Column) -> str:
        if column is LAYER:
            return name
        return _coloured(value(summary[column.ratio])) if column.ratio in summary else ""

    return [cell(column) for column in columns]


def _ceilings(rows: list[Row]) -> str | None:
    peaks = [row.peak_gflops for row in rows if row.peak_gflops]
    if not peaks:
        return None
    bandwidth = rows[0].bandwidth_gbs
    return f"measured beside it: {min(peaks):.0f} to {max(peaks):.0f} GFLOP/s, {bandwidth:.0f} GB/s\n"


def _coloured(ratio: float) -> str:
    return f"[{'green' if ratio >= 1 else 'red'}]{ratio:.2f}[/]"


def _three_digits(value: float) -> str:
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"


def _ratio(heading: str, key: str) -> Column:
    return Column(heading, lambda row: _coloured(row.ratios[key]) if key in row.ratios else "", key)


def _seconds(heading: str, contender: str, unit: float = 1e-3) -> Column:
    return Column(heading, lambda row: _three_digits(row.contenders[contender].seconds / unit))


def _share(heading: str, who: str) -> Column:
    return Column(heading, lambda row: f"{row.contenders[row.best(who)].share_of_peak:.0%}")


def _torch(row: Row) -> str:
    name = row.best("torch")
    how = name.split("/")[1]
    return f"{_three_digits(row.contenders[name].seconds * 1e3)} {LAYOUTS.get(how, how)}"


def _flops_ratio(row: Row) -> str:
    return f"{row.work.dense_flops / row.work.flops:.1f}" if "over_dense" in row.ratios else ""


def _megabytes(heading: str, who: str) -> Column:
    return Column(heading, lambda row: f"{least(row.extra_bytes, who) / 1e6:.1f}" if row.extra_bytes else "")


def _needed(row: Row) -> float:
    """Bytes of the output and of the gradients of a training step."""
    return row.work.bytes / 2


def _beyond(row: Row) -> str:
    torch, ours = (least(row.extra_bytes, who) - _needed(row) for who in ("torch", "cnnkern"))
    return f"{100 * max(0.0, ours) / torch:.0f}" if torch > 0 else ""


LAYER = Column("", lambda row: row.work.title)
TIMES = [
    LAYER,
    Column("torch\nms", _torch),
    _seconds("NCHW\nms", "cnnkern/contiguous"),
    _seconds("NHWC\nms", "cnnkern/channels_last"),
    _ratio("NCHW\nx", "contiguous"),
    _ratio("NHWC\nx", "channels_last"),
    _ratio("ORT\nx", "onnxruntime"),
    _ratio("dense\nx", "over_dense"),
    _ratio("own\nx", "over_own_dense"),
    Column("FLOPs\nx", _flops_ratio),
    _share("torch\n%", "torch"),
    _share("ours\n%", "cnnkern"),
]
PERFORATED = [*TIMES[:10], _ratio("own\n/(1-r)", "in_proportion"), *TIMES[10:]]
PER_SECOND = [
    Column("\nGFLOP/s", lambda row: f"{row.contenders[row.best('cnnkern')].gflops:.0f}"),
    Column("\nGB/s", lambda row: f"{row.contenders[row.best('cnnkern')].gbs:.1f}"),
]
MEMORY = [
    _megabytes("torch\nextra MB", "torch"),
    _megabytes("ours\nextra MB", "cnnkern"),
    Column("needed\nMB", lambda row: f"{_needed(row) / 1e6:.1f}"),
    _ratio("less\nx", "extra_memory"),
    Column("beyond\n%", _beyond),
]
COLUMN_SPARSE = [
    *TIMES[:3],
    _seconds("dense\nNCHW ms", "dense/contiguous"),
    *TIMES[3:4],
    _seconds("dense\nNHWC ms", "dense/channels_last"),
    *TIMES[4:6],
    _ratio("NCHW\n/p", "in_proportion_contiguous"),
    _ratio("NHWC\n/p", "in_proportion_channels_last"),
    _share("ours\n%", "cnnkern"),
]
INT8_GEMM = [
    LAYER,
    Column("torch\nms", _torch),
    _seconds("ours\nms", "cnnkern/contiguous"),
    _ratio("ours\nx", "best"),
    *PER_SECOND,
]
OVERHEAD = [
    LAYER,
    *(_seconds(f"{name.split('/')[1]}\nµs", name, unit=1e-6) for name in overhead.NAMES),
]
SUITES = {
    "dense": ("Dense: Im2colConv2d against nn.Conv2d", TIMES + PER_SECOND),
    "cp": ("CP: CPConv2d against four stock convolutions", TIMES + PER_SECOND),
    **{
        f"column_sparse {density:g}": (f"Column-sparse, density {density:g}, against dense", COLUMN_SPARSE)
        for density in DENSITIES
    },
    "training": ("CP forward and backward, against four stock convolutions under autograd", TIMES + MEMORY),
    **{
        f"perforated {rate:g}": (
            f"Perforated, rate {rate:g}, irregular masks: PerforatedConv2d against indexing and products",
            PERFORATED,
        )
        for rate in RATES
    },
    "perforated grid": (
        "Perforated, regular grid: against a strided stock convolution and interpolation",
        PERFORATED,
    ),
    "int8": ("int8: Int8Conv2d against torch's quantized engines; own: our float32 layer", TIMES),
    "int8 cp": (
        "int8: Int8CPConv2d against four stock convolutions in float32; own: our float32 CP layer",
        TIMES,
    ),
    **{
        f"int8 column_sparse {density:g}": (
            f"int8: Int8ColumnSparseConv2d, density {density:g}, against torch's quantized dense layer; "
            "own: our float32 column-sparse layer",
            TIMES,
        )
        for density in int8.DENSITIES
    },
    "int8 gemm": ("int8: Int8Linear, m x n x k, against torch's quantized engines", INT8_GEMM),
    "overhead": ("What a call costs: 8 to 8 channels, 3x3 on 8x8", OVERHEAD),
}
