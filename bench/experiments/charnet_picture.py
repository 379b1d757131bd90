"""The picture of `bench.experiments.charnet`, after the paper's figure: by rank, and the paper's result."""

from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

from bench.results import pool
from examples.picture import GREY, PALETTE

NAMES = {"conv2": "second layer", "conv3": "third layer", "both": "both layers"}
COLOURS = dict(zip(NAMES, PALETTE, strict=False))
Value = Callable[[dict], float]


def draw(figure: Figure, document: dict) -> None:
    """Fills `figure` with six panels from the document of the experiment."""
    upper, lower = figure.subplots(2, 3)
    points, networks, original = document["points"], document["networks"], document["accuracy"]
    _by_rank(upper[0], points, "layer", lambda point: point["error"])
    upper[0].set(title="Error of the fit", ylabel="‖W′ − W‖ / ‖W‖")
    _by_rank(upper[1], points, "layer", lambda point: point["parameters"])
    upper[1].set(title="Parameters of the layer", ylabel="share of the dense layer's", yscale="log")
    _speeds(upper[2], points)
    _by_rank(lower[0], networks, "replaced", lambda each: original - each["before"])
    lower[0].set(title="Before fine-tuning", ylabel="accuracy lost")
    _by_rank(lower[1], networks, "replaced", lambda each: original - each["after"])
    lower[1].set(title=f"After {document['settings']['steps']} steps of it", ylabel="accuracy lost")
    gained = original - document["accuracy_tuned_alike"]
    lower[1].axhline(gained, color=GREY, linestyle="--", label="original, tuned alike")
    lower[1].legend()
    for axes in lower[:2]:
        axes.axhline(0, color=GREY, linestyle=":")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1, symbol=" %"))
    upper[1].yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    _trade(lower[2], networks, original, document["paper"])
    settings = document["settings"]
    figure.suptitle(
        f"CharNet, {original:.1%} right, batch {settings['batch']}, {pool(settings['threads'])}  ·  "
        f"{document['environment']['cpu']}",
        fontsize=10,
    )


def _by_rank(
    axes: Axes, rows: list[dict], kind: str, value: Value, style: str = "o-", note: str = ""
) -> None:
    """A line for each layer, or for both together."""
    for name, label in NAMES.items():
        own = [row for row in rows if row[kind] == name]
        if own:
            ranks = [row["rank"] for row in own]
            values = [value(row) for row in own]
            axes.plot(ranks, values, style, color=COLOURS[name], label=label + note, markersize=4)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlabel("rank")
    axes.legend()


def _speeds(axes: Axes, points: list[dict]) -> None:
    _by_rank(axes, points, "layer", lambda point: _times_faster(point, "cnnkern"), note=", fused")
    _by_rank(axes, points, "layer", lambda point: _times_faster(point, "stock"), "o--", ", four stock")
    axes.axhline(1, color=GREY, linestyle=":")
    axes.set(title="Speed of the layer", ylabel="times faster than torch's", yscale="log")
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _trade(axes: Axes, networks: list[dict], original: float, paper: dict) -> None:
    """The whole network: what is lost against what is won."""
    for name, label in NAMES.items():
        own = [each for each in networks if each["replaced"] == name]
        speeds = [_times_faster(each, "all_ours") for each in own]
        losses = [original - each["after"] for each in own]
        axes.plot(speeds, losses, "o-", color=COLOURS[name], label=label, markersize=4)
        for each, *place in zip(own, speeds, losses, strict=True):
            axes.annotate(
                str(each["rank"]), place, fontsize=6.5, xytext=(3, 3), textcoords="offset points", color=GREY
            )
    for each in networks:
        if each["replaced"] not in NAMES:
            place = _times_faster(each, "all_ours"), original - each["after"]
            axes.plot(
                *place, "*", color="black", markersize=10, label=f"{each['replaced']}, R={each['rank']}"
            )
    place = paper["times_faster"], paper["original"] - paper["accuracy"]
    axes.plot(*place, "x", color="black", label=f"Lebedev et al. 2015, R={paper['rank']}")
    axes.axhline(0, color=GREY, linestyle=":")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1, symbol=" %"))
    axes.set(title="The whole network, tuned", ylabel="accuracy lost")
    axes.set_xlabel("times faster than torch's, all convolutions on our kernels")
    axes.legend()


def _times_faster(row: dict, who: str) -> float:
    return row["torch"]["milliseconds"] / row[who]["milliseconds"]
