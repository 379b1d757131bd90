"""The picture of ``examples.perforation``: accuracy and speed by rate and kind of mask, and the masks."""

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from cnnkern.compression.files import written_whole
from examples.measuring import WHOLE
from examples.picture import GREY, PALETTE, STYLE


def draw(path: Path, document: dict) -> None:
    """Writes the picture of the JSON ``document`` to ``path``, whole or not at all."""
    outcomes = document["outcomes"]
    kinds = list(dict.fromkeys(outcome["pattern"] for outcome in outcomes))
    layers = list(outcomes[0]["masks"])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(13, 7), layout="constrained")
        above, below = figure.subfigures(2, 1, height_ratios=(1.4, 1))
        accuracy, speed = above.subplots(1, 2)
        for kind, colour in zip(kinds, PALETTE, strict=False):
            mine = sorted((one for one in outcomes if one["pattern"] == kind), key=lambda one: one["rate"])
            rates = [one["rate"] for one in mine]
            accuracy.plot(rates, [one["accuracy"] for one in mine], "o-", color=colour, label=kind)
            accuracy.plot(rates, [one["before"] for one in mine], "o:", color=colour, alpha=0.6)
            for batch, style in zip(mine[0]["times"], ("o:", "o-"), strict=False):
                ratios = [_speed_up(one["times"][batch][WHOLE]) for one in mine]
                speed.plot(rates, ratios, style, color=colour, label=f"{kind}, batch {batch}")
        accuracy.axhline(document["accuracy"], color=GREY, linestyle="--", label="dense")
        accuracy.set_title("Test accuracy, before (dotted) and after fine-tuning")
        accuracy.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        speed.axhline(1, color=GREY, linestyle="--")
        speed.set_title("Whole network, times faster than the dense one")
        for axes in (accuracy, speed):
            axes.set_xlabel("rate: share of the outputs of both layers that are not computed")
            axes.legend(fontsize=7)
        panels = below.subplots(len(layers), len(outcomes), squeeze=False)
        for row, name in enumerate(layers):
            for axes, outcome in zip(panels[row], outcomes, strict=True):
                _show(
                    axes,
                    outcome["masks"][name],
                    f"{outcome['pattern']}\n{outcome['rate']:g}" if row == 0 else "",
                )
        with written_whole(path) as temporary:
            figure.savefig(temporary, dpi=150)


def _speed_up(times: dict) -> float:
    return times["dense"]["milliseconds"] / times["cnnkern"]["milliseconds"]


def _show(axes: Axes, mask: list[list[int]], title: str) -> None:
    axes.imshow(mask, vmin=0, vmax=1, cmap="gray", interpolation="nearest")
    axes.set_title(title, fontsize=7)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
