"""Factorized forms of a layer at equal time: ``python -m bench.experiments.equal_time``.

The two-component form (Jaderberg et al. 2014), Tucker-2 (Kim et al. 2016), CP (Lebedev et al. 2015) and the
bi-clustered form (Denton et al. 2014) of the same layers: for each form the largest rank of a ladder whose
measured time is at most a share of the dense layer's, and the error of the fit there. Each is timed in its
faster way, as stock convolutions or on our kernels. Weights are drawn with the spectrum of trained ones.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path

import torch
from matplotlib.figure import Figure
from rich.table import Table
from torch import Tensor, nn

from bench.experiments.record import record, table_of
from bench.experiments.spectrum import trained_like
from bench.layers import LAYERS, Layer
from bench.results import RESULTS, pool
from bench.timing import Call, interleave, thread_count
from cnnkern import CPConv2d, Im2colConv2d
from cnnkern.compression.methods import METHODS, forms
from cnnkern.decomposition import biclustered, cp, spatial_svd, tucker2
from cnnkern.nn.convolution import arguments_of
from examples.picture import GREY, PALETTE

NAMES = ("AlexNet conv2", "CharNet conv2", "ResNet stage 2")
SHARES = (0.5, 0.35, 0.25, 0.15)
LADDER = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8)  # shares of each form's largest rank
Ranks = int | tuple[int, int]
Error = Callable[[Tensor, Ranks], float]


@dataclass(frozen=True)
class Form:
    """How a factorization's ranks grow along the ladder, and what error it has."""

    method: str
    ranks: Callable[[nn.Conv2d, float], Ranks]
    error: Error


def _pair(conv: nn.Conv2d, share: float, clusters: int = 1) -> tuple[int, int]:
    sizes = conv.in_channels // clusters, conv.out_channels // clusters
    return tuple(max(1, round(share * size)) for size in sizes)


FORMS = {
    "two-component": Form(
        "spatial_svd",
        lambda conv, share: max(1, round(share * min(conv.weight.shape[:2]) * conv.kernel_size[0])),
        lambda weight, rank: spatial_svd(weight, rank).error,
    ),
    "Tucker-2": Form("tucker2", _pair, lambda weight, ranks: tucker2(weight, ranks).error),
    "CP": Form(
        "cp",
        lambda conv, share: max(1, round(4 * share * max(conv.weight.shape[:2]))),
        lambda weight, rank: cp(weight, rank, verbose=False).error,
    ),
    "bi-clustered": Form(
        "biclustered",
        lambda conv, share: _pair(conv, share, 2),
        lambda weight, ranks: biclustered(weight, (2, 2), ranks).error,
    ),
}


@dataclass(frozen=True)
class Settings:
    """`seconds` is what the rounds of one layer take; `shrink` divides the channels, for a quick look."""

    layers: tuple[str, ...] = NAMES
    shares: tuple[float, ...] = SHARES
    threads: int = 1
    batch: int = 16
    seconds: float = 10.0
    shrink: int = 1


@dataclass(frozen=True)
class Point:
    """One form of one layer at one share of the dense layer's time; None where no rank is so fast."""

    layer: str
    form: str
    share: float
    ranks: Ranks | None
    time: float | None
    error: float | None


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    names = tuple(layer.name for layer in LAYERS if any(fnmatch(layer.name, each) for each in options.layers))
    settings = Settings(
        names, tuple(sorted(options.shares)), options.threads, options.batch, options.seconds, options.shrink
    )
    points = measure(settings)
    document = {"settings": asdict(settings), "points": [asdict(point) for point in points]}
    size = (4 * max(1, len(names)), 4)
    tables = [_table(points, name) for name in names]
    record("equal-time", options.output, document, tables, _draw, size, settings.threads)


def measure(settings: Settings) -> list[Point]:
    points = []
    for layer in LAYERS:
        if layer.name in settings.layers:
            with thread_count(settings.threads):
                points += _measure(layer, settings)
    return points


def _measure(layer: Layer, settings: Settings) -> list[Point]:
    C, K = layer.C // settings.shrink, layer.K // settings.shrink
    conv = nn.Conv2d(C, K, layer.kernel, layer.stride, layer.padding).eval().requires_grad_(False)
    conv.weight.copy_(trained_like(K, C, layer.kernel))
    x = torch.randn(settings.batch, C, layer.H, layer.W)
    dense, times = ladder_times(conv, x, settings.seconds)
    points = []
    for name, form in FORMS.items():
        for share in settings.shares:
            fast = [(ranks, time) for ranks, time in times[name].items() if time <= share * dense]
            ranks, time = max(fast, key=lambda each: each[1], default=(None, None))
            error = None if ranks is None else form.error(conv.weight, ranks)
            points.append(Point(layer.name, name, share, ranks, time and time / dense, error))
    return points


def ladder_times(conv: nn.Conv2d, x: Tensor, seconds: float) -> tuple[float, dict[str, dict[Ranks, float]]]:
    """Seconds of the dense layer, the faster of torch's and ours, and of each form by its ranks; all in
    turns, with weights that were not fitted."""
    entered = [("dense", None, conv), ("dense", None, Im2colConv2d.from_conv(conv).eval())]
    for name, form in FORMS.items():
        for ranks in dict.fromkeys(form.ranks(conv, share) for share in LADDER):
            for module in forms(_blank(form.method, conv, ranks)).values():
                entered.append((name, ranks, module))
    calls = [Call(name, lambda module=module: module(x)) for name, _, module in entered]
    with torch.no_grad():
        timings, _ = interleave(calls, seconds=seconds)
    dense = min(timing.median for timing in timings[:2])
    times: dict[str, dict[Ranks, float]] = {name: {} for name in FORMS}
    for (name, ranks, _), timing in zip(entered[2:], timings[2:], strict=True):
        times[name][ranks] = min(timing.median, times[name].get(ranks, timing.median))
    return dense, times


def _blank(method: str, conv: nn.Conv2d, ranks: Ranks) -> nn.Module:
    if method == "cp":
        return CPConv2d(**arguments_of(conv), rank=ranks).eval()
    return METHODS[method].blank(conv, ranks).eval()


def _table(points: list[Point], layer: str) -> Table:
    own = [point for point in points if point.layer == layer]
    shares = list(dict.fromkeys(point.share for point in own))
    rows = [
        [
            form,
            *(
                _cell(point)
                for share in shares
                for point in own
                if (point.form, point.share) == (form, share)
            ),
        ]
        for form in FORMS
    ]
    headings = ["form", *(f"at {share:.0%} of dense" for share in shares)]
    return table_of(f"{layer}: error, and the ranks, at equal time", headings, rows)


def _cell(point: Point) -> str:
    return "" if point.error is None else f"{point.error:.3f} ({point.ranks})"


def _draw(figure: Figure, document: dict) -> None:
    names = document["settings"]["layers"]
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        for form, colour in zip(FORMS, PALETTE, strict=False):
            own = [
                point
                for point in document["points"]
                if (point["layer"], point["form"]) == (name, form) and point["error"] is not None
            ]
            axes.plot([p["time"] for p in own], [p["error"] for p in own], "o-", color=colour, label=form)
        axes.set(title=name, xlabel="share of the dense layer's time")
        axes.set_xlim(left=0)
        axes.axhline(1, color=GREY, linestyle=":")
    panels[0].set_ylabel("‖W′ − W‖ / ‖W‖")
    panels[0].legend()
    settings = document["settings"]
    figure.suptitle(
        f"Factorized forms at equal time, batch {settings['batch']}, {pool(settings['threads'])}  ·  "
        f"{document['environment']['cpu']}",
        fontsize=10,
    )


def _parser() -> argparse.ArgumentParser:
    default = Settings()
    parser = argparse.ArgumentParser(
        prog="python -m bench.experiments.equal_time", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--layers", nargs="+", default=default.layers, metavar="PATTERN", help="by name")
    parser.add_argument("--shares", nargs="+", type=float, default=default.shares, metavar="S")
    parser.add_argument("--threads", type=int, default=default.threads)
    parser.add_argument("--batch", type=int, default=default.batch)
    parser.add_argument("--seconds", type=float, default=default.seconds, help="time of one layer")
    parser.add_argument("--shrink", type=int, default=1, help="divide the channels, for a quick look")
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="DIR")
    return parser


if __name__ == "__main__":
    main()
