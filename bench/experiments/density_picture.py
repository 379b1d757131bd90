"""The picture of ``bench.experiments.density``: time by density, a panel for each number of threads."""

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from bench.results import pool
from examples.files import written_whole
from examples.picture import GREY, PALETTE, STYLE

# Lines of time by density; those that do not depend on it are dashed.
LINES = {
    "scipy CSC": (PALETTE[1], "o-"),
    "torch CSR": (PALETTE[4], "o-"),
    "column-sparse": (PALETTE[2], "o-"),
    "torch convolution": (PALETTE[0], "--"),
    "cnnkern convolution": (PALETTE[5], "--"),
    "dense product": (GREY, "--"),
}


def draw(path: Path, document: dict) -> None:
    """Writes the picture of the JSON ``document`` to ``path``, whole or not at all."""
    settings = document["settings"]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.6 * len(settings["threads"]), 4.6), layout="constrained")
        panels = figure.subplots(1, len(settings["threads"]), sharey=True, squeeze=False)[0]
        for axes, threads in zip(panels, settings["threads"], strict=True):
            _times(axes, [point for point in document["points"] if point["threads"] == threads])
            axes.set_title(pool(threads))
        panels[0].set_ylabel("milliseconds")
        panels[0].legend(loc="lower right")
        channels, size = settings["channels"], settings["size"]
        figure.suptitle(
            f"3x3 convolution, {channels} to {channels} channels, {size}x{size} maps, by density  ·  "
            f"{document['environment']['cpu']}\nsparse and dense products without the lowering to patches",
            fontsize=10,
        )
        with written_whole(path) as temporary:
            figure.savefig(temporary, dpi=150)


def _times(axes: Axes, points: list[dict]) -> None:
    densities = [point["density"] for point in points]
    for name, (colour, style) in LINES.items():
        milliseconds = [1e3 * point["seconds"][name] for point in points]
        axes.plot(densities, milliseconds, style, color=colour, label=name, markersize=4)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlabel("density")
