"""The demo's results as one picture: error, accuracy and speed-up by rank, after the figures of the paper."""

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from cnnkern.compression.files import written_whole
from examples.experiment import Row, Study
from examples.measuring import WHOLE

# Okabe and Ito's palette: told apart with any colour vision.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#8c8c8c"
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}


def draw(path: Path, fashion: Study, squeezenet: Study | None, machine: str) -> None:
    """Writes the picture of both studies to ``path``, whole or not at all; the format follows the suffix."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(16, 8 if squeezenet else 4.2), layout="constrained")
        # Four panels above three, in twelfths of the width.
        panels = figure.subplot_mosaic("AAABBBCCCDDD" + ("\nEEEEFFFFGGGG" if squeezenet else ""))
        _error_by_rank(panels["A"], fashion)
        _accuracy_by_rank(panels["B"], fashion)
        _finetuned_by_rank(panels["C"], fashion)
        _speed_by_rank(panels["D"], fashion)
        if squeezenet:
            _error_by_layer(panels["E"], squeezenet)
            for axes, batch in zip((panels["F"], panels["G"]), _batches(squeezenet), strict=True):
                _speed_by_layer(axes, squeezenet, batch)
        figure.suptitle(f"Convolutions replaced by fused CP convolutions  ·  {machine}", fontsize=11)
        with written_whole(path) as temporary:
            figure.savefig(temporary, dpi=150)


def _error_by_rank(axes: Axes, study: Study) -> None:
    axes.set_title("Fashion-MNIST: approximation error")
    for name, colour in _colours(study):
        rows = _rows(study, name)
        if name != WHOLE:
            axes.plot(
                _positions(rows),
                [row.error for row in rows],
                "o-",
                color=colour,
                label=f"{name} ({rows[0].shape})",
            )
    _rank_axis(axes, study)
    axes.set_ylabel("‖W′ − W‖ / ‖W‖")
    axes.set_ylim(bottom=0)
    axes.legend()


def _accuracy_by_rank(axes: Axes, study: Study) -> None:
    axes.set_title("Fashion-MNIST: accuracy, no fine-tuning")
    axes.axhline(study.accuracy, color=GREY, linestyle=":", label=f"original, {study.accuracy:.1%}")
    for name, colour in _colours(study):
        rows = _rows(study, name)
        label = "both replaced" if name == WHOLE else f"{name} replaced"
        axes.plot(_positions(rows), [row.accuracy for row in rows], "o-", color=colour, label=label)
    _rank_axis(axes, study)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend()


def _finetuned_by_rank(axes: Axes, study: Study) -> None:
    axes.set_title("Fashion-MNIST: both replaced, fine-tuned")
    axes.axhline(study.accuracy, color=GREY, linestyle=":", label=f"original, {study.accuracy:.1%}")
    rows = _rows(study, WHOLE)
    for name, colour in zip(rows[0].finetuned, PALETTE[3:], strict=False):
        after = [row.finetuned[name] for row in rows]
        axes.plot(_positions(rows), after, "o-", color=colour, label=f"after, {name}")
    colour = dict(_colours(study))[WHOLE]
    axes.plot(_positions(rows), [row.accuracy for row in rows], "o--", color=colour, label="before")
    # What fine-tuning brings back is too much for one scale: the axis shows where it leads.
    reached = [accuracy for row in rows for accuracy in row.finetuned.values()]
    bottom = min(reached) - 0.5 * (max(*reached, study.accuracy) - min(reached)) - 0.005
    axes.set_ylim(bottom, study.accuracy + 0.6 * (study.accuracy - bottom))
    for place, row in zip(_positions(rows), rows, strict=True):
        if row.accuracy < bottom:
            axes.annotate(f"{row.accuracy:.0%} ↓", (place, bottom), (0, 3), textcoords="offset points",
                          ha="center", color=colour)  # fmt: skip
    _rank_axis(axes, study)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend(loc="upper left")


def _speed_by_rank(axes: Axes, study: Study) -> None:
    batch = _batches(study)[-1]
    axes.set_title(f"Fashion-MNIST: speed over dense, batch {batch}")
    for name, colour in _colours(study):
        rows = _rows(study, name)
        for who, line, note in (("cnnkern", "o-", "cnnkern"), ("four", "s--", "four stock convolutions")):
            speed = [_speed(row, who, batch) for row in rows]
            axes.plot(_positions(rows), speed, line, color=colour, markersize=4,
                      alpha=1 if who == "cnnkern" else 0.55,
                      label=f"{name}, {note}")  # fmt: skip
    axes.axhline(1, color=GREY, linestyle=":")
    _rank_axis(axes, study)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.35)
    axes.legend(fontsize=7.5, loc="upper right")


def _error_by_layer(axes: Axes, study: Study) -> None:
    axes.set_title("SqueezeNet 1.1: approximation error of the 3×3 layers")
    for label, colour in zip(study.labels, PALETTE, strict=False):
        errors = [study.rows[name, label].error for name in study.layers]
        axes.plot(range(len(errors)), errors, "o-", color=colour, label=f"{label} of the weights")
    axes.set_xticks(range(len(study.layers)), _short_names(study), rotation=45, ha="right")
    axes.set_ylabel("‖W′ − W‖ / ‖W‖")
    axes.set_ylim(bottom=0)
    axes.legend()


def _speed_by_layer(axes: Axes, study: Study, batch: int) -> None:
    axes.set_title(f"SqueezeNet 1.1: times as fast as dense, batch {batch}")
    names = [*study.layers, WHOLE]
    width = 0.8 / len(study.labels)
    for index, (label, colour) in enumerate(zip(study.labels, PALETTE, strict=False)):
        rows = [study.rows[name, label] for name in names]
        centres = [place + (index - (len(study.labels) - 1) / 2) * width for place in range(len(names))]
        axes.bar(centres, [_speed(row, "cnnkern", batch) for row in rows], width * 0.92, color=colour,
                 label=f"cnnkern, {label} of the weights")  # fmt: skip
        axes.plot(centres, [_speed(row, "four", batch) for row in rows], "_", color="black", markersize=7,
                  label="four stock convolutions" if index == 0 else None)  # fmt: skip
    axes.axhline(1, color=GREY, linestyle=":")
    axes.set_xticks(range(len(names)), [*_short_names(study), "network"], rotation=45, ha="right")
    axes.set_ylim(top=axes.get_ylim()[1] * 1.3)
    axes.legend(fontsize=7.5)


def _rows(study: Study, name: str) -> list[Row]:
    return [study.rows[name, label] for label in study.labels]


def _positions(rows: list[Row]) -> range:
    return range(len(rows))


def _rank_axis(axes: Axes, study: Study) -> None:
    axes.set_xticks(range(len(study.labels)), study.labels)
    axes.set_xlabel("rank R")


def _colours(study: Study) -> list[tuple[str, str]]:
    return list(zip([*study.layers, WHOLE], PALETTE, strict=False))


def _batches(study: Study) -> list[int]:
    return sorted(next(iter(study.rows.values())).times)


def _speed(row: Row, who: str, batch: int) -> float:
    return row.times[batch]["dense"].milliseconds / row.times[batch][who].milliseconds


def _short_names(study: Study) -> list[str]:
    return [name.removesuffix(".expand3x3") for name in study.layers]
