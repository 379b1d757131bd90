"""A layer of AlexNet by CP rank: ``python -m bench.experiments.alexnet_ranks``.

Its second convolution (96 to 256 channels, 5x5, on 27x27 maps; Lebedev et al. 2015, figure 3) at ranks from
50 to 500: the error of the fit by non-linear least squares, by alternating least squares and by greedy
rank-one terms, the CPU time of each fit, and how many times faster the fused layer and the four stock
convolutions are than torch's dense layer. Alternating least squares take a quarter of an hour at the smallest
rank and more at others; `--als-most` says up to which they are tried. The weight is drawn with the spectrum
of a trained one. The files are written anew after each rank.
"""

import argparse
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from rich.table import Table
from torch import Tensor
from tqdm import tqdm

from bench.contests import cp, dense
from bench.experiments.record import record, table_of
from bench.experiments.spectrum import trained_like
from bench.layers import LAYERS, Layer
from bench.results import RESULTS, pool
from bench.timing import interleave, thread_count
from cnnkern import decomposition
from examples.picture import GREY, PALETTE

RANKS = (50, 100, 140, 200, 300, 400, 500)
METHODS = ("nls", "als", "greedy")
LAYER = next(layer for layer in LAYERS if layer.name == "AlexNet conv2")
PAPER = {140: 4.5, 200: 3.6}  # rank: times faster, on the CPU of the time


@dataclass(frozen=True)
class Settings:
    """`seconds` is what the rounds of one rank take; `shrink` divides the channels, for a quick look."""

    ranks: tuple[int, ...] = RANKS
    methods: tuple[str, ...] = METHODS
    threads: int = 1
    batch: int = 16
    seconds: float = 3.0
    shrink: int = 1
    als_most: int = 50

    def methods_for(self, rank: int) -> tuple[str, ...]:
        return tuple(method for method in self.methods if method != "als" or rank <= self.als_most)

    @property
    def layer(self) -> Layer:
        return replace(LAYER, C=LAYER.C // self.shrink, K=LAYER.K // self.shrink, ranks=())


@dataclass(frozen=True)
class Point:
    """One rank: by method the relative error and the CPU seconds of the fit; seconds of a call of torch's
    dense layer, of the four stock convolutions and of the fused layer, each in its fastest layout; and the
    share of the dense layer's parameters."""

    rank: int
    errors: dict[str, float]
    fit_seconds: dict[str, float]
    dense: float
    stock: float
    fused: float
    parameters: float


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    settings = Settings(
        tuple(sorted(options.ranks)), tuple(options.methods), options.threads, options.batch, options.seconds,
        options.shrink, options.als_most,
    )  # fmt: skip
    points: list[Point] = []
    for point in measure(settings):
        points.append(point)
        document = {
            "settings": asdict(settings),
            "points": [asdict(point) for point in points],
            "paper": {str(rank): times for rank, times in PAPER.items()},
        }
        tables = [_table(points)] if len(points) == len(settings.ranks) else []
        record("alexnet-ranks", options.output, document, tables, _draw, (10, 4), settings.threads)


def measure(settings: Settings) -> Iterator[Point]:
    layer = settings.layer
    weight = trained_like(layer.K, layer.C, layer.kernel)
    for rank in tqdm(settings.ranks, unit="rank", disable=None):
        fits = {method: _fit(weight, rank, method) for method in settings.methods_for(rank)}
        with thread_count(settings.threads):
            seconds = _seconds(layer, rank, settings)
        yield Point(
            rank,
            {method: error for method, (error, _) in fits.items()},
            {method: taken for method, (_, taken) in fits.items()},
            *seconds,
            rank * (layer.C + sum(layer.kernel) + layer.K) / weight.numel(),
        )


def _fit(weight: Tensor, rank: int, method: str) -> tuple[float, float]:
    """The relative error, and the CPU seconds it took."""
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of degenerate fits, whose error is what is asked for
        factors = decomposition.cp(weight, rank, method=method, verbose=False)
    return factors.error, time.process_time() - start


def _seconds(layer: Layer, rank: int, settings: Settings) -> tuple[float, float, float]:
    """Of the dense layer by torch, the four stock convolutions, the fused layer; all shown to be right."""
    contests = [dense(layer, settings.batch), cp(layer, rank, settings.batch)]
    for contest in contests:
        contest.check()
    contenders = [contender for contest in contests for contender in contest.contenders]
    with torch.inference_mode():
        timings, _ = interleave(contenders, seconds=settings.seconds)
    first = len(contests[0].contenders)
    best = partial(_best, contenders, timings)
    return best("torch", range(first)), *(
        best(who, range(first, len(contenders))) for who in ("torch", "cnnkern")
    )


def _best(contenders: list, timings: list, who: str, among: range) -> float:
    return min(timings[i].median for i in among if contenders[i].name.startswith(who))


def _table(points: list[Point]) -> Table:
    methods = list(points[0].errors)
    headings = ["rank", *(f"error, {m}" for m in methods), *(f"CPU s, {m}" for m in methods)]
    headings += ["parameters", "four stock", "fused", "paper"]
    rows = []
    for point in points:
        rows.append([
            str(point.rank),
            *(f"{point.errors[m]:.3f}" if m in point.errors else "" for m in methods),
            *(f"{point.fit_seconds[m]:.1f}" if m in point.errors else "" for m in methods),
            f"{point.parameters:.1%}",
            f"{point.dense / point.stock:.2f}",
            f"{point.dense / point.fused:.2f}",
            str(PAPER.get(point.rank, "")),
        ])  # fmt: skip
    return table_of("AlexNet conv2 by CP rank: relative error, times faster than dense", headings, rows)


def _draw(figure: Figure, document: dict) -> None:
    points, (errors, speeds) = document["points"], figure.subplots(1, 2)
    ranks = [point["rank"] for point in points]
    for method, colour in zip(points[0]["errors"], PALETTE, strict=False):
        fitted = [p for p in points if method in p["errors"]]
        x, y = [p["rank"] for p in fitted], [p["errors"][method] for p in fitted]
        errors.plot(x, y, "o-", color=colour, label=method)
    errors.set(xlabel="rank", ylabel="‖W′ − W‖ / ‖W‖")
    for who, label, colour in (("fused", "cnnkern, fused", PALETTE[0]), ("stock", "four stock", PALETTE[1])):
        speeds.plot(ranks, [p["dense"] / p[who] for p in points], "o-", color=colour, label=label)
    paper = {int(rank): times for rank, times in document["paper"].items()}
    speeds.plot(list(paper), list(paper.values()), "x", color=GREY, label="Lebedev et al. 2015")
    speeds.axhline(1, color=GREY, linestyle=":")
    speeds.set(xlabel="rank", ylabel="times faster than torch's dense layer")
    speeds.set_ylim(bottom=0)
    for axes in (errors, speeds):
        axes.legend()
    settings = document["settings"]
    figure.suptitle(
        f"AlexNet conv2, batch {settings['batch']}, {pool(settings['threads'])}  ·  "
        f"{document['environment']['cpu']}",
        fontsize=10,
    )


def _parser() -> argparse.ArgumentParser:
    default = Settings()
    parser = argparse.ArgumentParser(
        prog="python -m bench.experiments.alexnet_ranks", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--ranks", nargs="+", type=int, default=default.ranks, metavar="R")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=default.methods)
    parser.add_argument("--threads", type=int, default=default.threads)
    parser.add_argument("--batch", type=int, default=default.batch)
    parser.add_argument("--seconds", type=float, default=default.seconds, help="time of one rank")
    parser.add_argument("--als-most", type=int, default=default.als_most, metavar="R", help="rank for it")
    parser.add_argument("--shrink", type=int, default=1, help="divide the channels, for a quick look")
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="DIR")
    return parser


if __name__ == "__main__":
    main()
