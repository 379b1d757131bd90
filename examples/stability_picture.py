"""The picture of ``examples.stability``: the loss with and without the remedies, and what it led to."""

import math
from pathlib import Path
from statistics import fmean

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, ScalarFormatter

from cnnkern.compression.files import written_whole
from examples.picture import GREY, PALETTE, STYLE

SMOOTHING = 0.9
# In colours of their own; the other combinations are in the panel of accuracies alone.
CURVES = ("nothing done", "balanced norms", "rate per factor", "correction", "all three", "factors in turn")


def draw(path: Path, document: dict) -> None:
    """Writes the picture of the JSON ``document`` to ``path``, whole or not at all."""
    settings, outcomes = document["settings"], document["outcomes"]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 4.8), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
        colours = dict(zip(CURVES, PALETTE, strict=True))
        _losses(left, outcomes, colours)
        _accuracies(right, outcomes, colours, document["accuracy_original"])
        figure.suptitle(
            f"Fine-tuning with both layers at R={settings['rank']}, {settings['steps']} steps at the "
            f"learning rate that the network was trained with (peak {settings['learning_rate']})",
            fontsize=11,
        )
        with written_whole(path) as temporary:
            figure.savefig(temporary, dpi=150)


def _losses(axes: Axes, outcomes: list[dict], colours: dict[str, str]) -> None:
    axes.set_title("Training loss (smoothed; one line for each run)")
    for outcome in outcomes:
        colour = colours.get(outcome["name"])
        for run in outcome["runs"] if colour else ():
            label = outcome["name"] if run is outcome["runs"][0] else None
            axes.plot(_smooth(run["losses"]), color=colour, alpha=0.8, linewidth=1.2, label=label)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(ScalarFormatter())
    axes.set_xlabel("step")
    axes.legend()


def _accuracies(axes: Axes, outcomes: list[dict], colours: dict[str, str], original: float) -> None:
    axes.set_title("Test accuracy after it (a dot for each run)")
    places = range(len(outcomes), 0, -1)
    for place, outcome in zip(places, outcomes, strict=True):
        colour = colours.get(outcome["name"], "black")
        accuracies = [run["accuracy"] for run in outcome["runs"]]
        axes.plot(accuracies, [place] * len(accuracies), "o", color=colour, alpha=0.8)
        axes.annotate(
            f"{fmean(accuracies):.1%}", (1.01, place), xycoords=("axes fraction", "data"), va="center"
        )
        axes.plot(outcome["accuracy_before"], place, "|", color=GREY, markersize=9,
                  label="before" if place == 1 else None)  # fmt: skip
    axes.axvline(original, color=GREY, linestyle=":", label=f"original, {original:.1%}")
    axes.set_yticks(places, [outcome["name"] for outcome in outcomes])
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend(loc="lower left")


def _smooth(losses: list[float | None]) -> list[float]:
    """The running mean with exponential weights, free of the pull of its start, to the last finite loss."""
    smooth, mean = [], 0.0
    for step, loss in enumerate(losses, start=1):
        if loss is None or not math.isfinite(loss):
            break
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smooth.append(mean / (1 - SMOOTHING**step))
    return smooth
