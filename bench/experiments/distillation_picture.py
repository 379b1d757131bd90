"""The picture of the distillation: what T and λ make of a student, beside its teacher."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.results import pool
from examples.picture import GREY, PALETTE


def draw(figure: Figure, document: dict) -> None:
    """Accuracy by temperature and weight of the labels, and by the time of an image."""
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    _by_temperature(left, document)
    _by_time(right, document)
    settings = document["settings"]
    figure.suptitle(
        f"A DenseNet teaches a SqueezeNet, {settings['images'] or 'all'} images of Fashion-MNIST, "
        f"{document['student_steps']} steps  ·  {pool(settings['threads'])}  ·  "
        f"{document['environment']['cpu']}",
        fontsize=10,
    )


def _by_temperature(axes: Axes, document: dict) -> None:
    networks, settings = document["networks"], document["settings"]
    alone = [100 * p["accuracy"] for p in document["points"] if p["temperature"] is None]
    for weight, colour in zip(settings["label_weights"], PALETTE, strict=False):
        own = [point for point in document["points"] if point["label_weight"] == weight]
        axes.errorbar(
            [p["temperature"] for p in own], [100 * p["accuracy"] for p in own],
            yerr=[100 * p["error"] for p in own], fmt="o-", capsize=3, color=colour, label=f"λ={weight:g}",
        )  # fmt: skip
    axes.axhspan(min(alone), max(alone), color=GREY, alpha=0.3)
    axes.axhline(sum(alone) / len(alone), color=GREY, linestyle="--", label="labels alone, all seeds")
    axes.axhline(100 * networks["teacher"]["accuracy"], color="black", linestyle=":", label="teacher")
    axes.set(title="Students by temperature", xlabel="T", ylabel="accuracy, %")
    axes.set_xticks(settings["temperatures"])
    axes.legend()


def _by_time(axes: Axes, document: dict) -> None:
    networks = document["networks"]
    batch = max(networks["teacher"]["milliseconds"])
    taught = [point for point in document["points"] if point["temperature"] is not None]
    best = max(taught, key=lambda point: point["accuracy"])
    shown = (
        ("teacher", networks["teacher"], networks["teacher"], "black", 4),
        ("labels alone", networks["student"], networks["student"], GREY, -20),
        (f"best of {len(taught)} taught", networks["student"], best, PALETTE[0], 4),
    )
    for name, network, judged, colour, above in shown:
        x, y = 1e3 * network["milliseconds"][batch], 100 * judged["accuracy"]
        axes.plot(x, y, "o", color=colour)
        axes.annotate(
            f"{name}\n{network['megabytes']:.2f} MB", (x, y), xytext=(6, above), textcoords="offset points",
            fontsize=8,
        )  # fmt: skip
    axes.margins(y=0.15)
    axes.set(title="Accuracy by time", xlabel=f"microseconds an image, batch {batch}")
    axes.set_xlim(0, 1.4 * 1e3 * networks["teacher"]["milliseconds"][batch])
