"""Where the time of whole networks goes: ``python -m bench.experiments.layer_types``.

`cnnkern.profile` of AlexNet and ResNet-50 in stock torch, in its faster layout: the share of each type.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from rich.table import Table
from torch import nn

import cnnkern
from bench.experiments.architectures import alexnet, resnet50
from bench.experiments.record import record, table_of
from bench.results import RESULTS, pool
from bench.timing import thread_count
from cnnkern.compression.running import in_format, model_in_format
from examples.picture import GREY, PALETTE

NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "AlexNet": (alexnet, 227),
    "ResNet-50": (resnet50, 224),
}
FORMATS = (torch.contiguous_format, torch.channels_last)
SMALL = 0.02  # shares below this are "other"


@dataclass(frozen=True)
class Settings:
    """`seconds` of timing for each network and layout."""

    networks: tuple[str, ...] = tuple(NETWORKS)
    batches: tuple[int, ...] = (1, 16)
    threads: int = 1
    seconds: float = 10.0


@dataclass(frozen=True)
class Point:
    """One network at one batch: its own run, by type of layer, in the layout that is faster."""

    network: str
    batch: int
    layout: str
    seconds: float
    gflops: float
    by_kind: dict[str, float]

    @property
    def shares(self) -> dict[str, float]:
        """Of the sum over layers, the largest first; those that are small together as the last."""
        whole = sum(self.by_kind.values())
        shares = {kind: seconds / whole for kind, seconds in self.by_kind.items()}
        named = {kind: share for kind, share in shares.items() if share >= SMALL}
        return {**named, "other": 1 - sum(named.values())}


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    settings = Settings(tuple(options.networks), tuple(options.batch), options.threads, options.seconds)
    points = measure(settings)
    document = {
        "settings": asdict(settings),
        "points": [asdict(point) | {"shares": point.shares} for point in points],
    }
    tables = [_table(points, settings)]
    record("layer-types", options.output, document, tables, _draw, (9.5, 3.6), settings.threads)


def measure(settings: Settings) -> list[Point]:
    with thread_count(settings.threads):
        return [_measure(name, batch, settings) for name in settings.networks for batch in settings.batches]


def _measure(name: str, batch: int, settings: Settings) -> Point:
    torch.manual_seed(0)
    make, size = NETWORKS[name]
    model, x = make().eval(), torch.randn(batch, 3, size, size)
    found = {}
    for layout in FORMATS:
        profile = cnnkern.profile(
            model_in_format(model, layout), in_format(x, layout), seconds=settings.seconds
        )
        found[str(layout).removeprefix("torch.")] = profile
    layout = min(found, key=lambda each: found[each].seconds)
    best = found[layout]
    return Point(name, batch, layout, best.seconds, best.flops / 1e9, best.by_kind())


def _table(points: list[Point], settings: Settings) -> Table:
    kinds = list(dict.fromkeys(kind for point in points for kind in point.shares if kind != "other"))
    kinds.append("other")
    rows = [
        [
            f"{point.network}, batch {point.batch}, {point.layout}",
            f"{point.seconds * 1e3:.3g}",
            *(f"{point.shares[kind]:.1%}" if kind in point.shares else "" for kind in kinds),
        ]
        for point in points
    ]
    return table_of(
        f"share of the time by type of layer, stock torch, {pool(settings.threads)}", ["", "ms", *kinds], rows
    )


def _draw(figure: Figure, document: dict) -> None:
    axes = figure.subplots()
    points = document["points"]
    kinds = list(dict.fromkeys(kind for point in points for kind in point["shares"] if kind != "other"))
    colours = {**dict(zip(kinds, PALETTE, strict=False)), "other": GREY}
    names = [f"{point['network']}, batch {point['batch']}" for point in points]
    left = [0.0] * len(points)
    for kind, colour in colours.items():
        widths = [100 * point["shares"].get(kind, 0.0) for point in points]
        axes.barh(names, widths, left=left, color=colour, label=kind)
        for row, (start, width) in enumerate(zip(left, widths, strict=True)):
            if width > 4:
                axes.text(start + width / 2, row, f"{width:.0f}", ha="center", va="center", color="white")
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="% of the time, stock torch")
    settings = document["settings"]
    axes.set_title(f"{pool(settings['threads'])}  ·  {document['environment']['cpu']}")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=len(colours))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.experiments.layer_types", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--networks", nargs="+", default=Settings.networks, choices=NETWORKS)
    parser.add_argument("--batch", type=int, nargs="+", default=Settings.batches, metavar="N")
    parser.add_argument("--threads", type=int, default=Settings.threads)
    parser.add_argument("--seconds", type=float, default=Settings.seconds, help="for each network and layout")
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="DIR")
    return parser


if __name__ == "__main__":
    main()
