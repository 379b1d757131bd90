"""Whole networks under `cnnkern.compress`: ``python -m bench.experiments.combined``.

The network of the demo on Fashion-MNIST, and SqueezeNet 1.1 on crops of photographs, compressed to several
target speeds with fine-tuning: what the clock says, and how many test images are classified right, or as by
the original. Beside them, each in a process of its own: ONNX Runtime, `torch.compile`, and torch's own int8.
Every contender is timed in its faster memory format, all in turns.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

import cnnkern
from bench.experiments.record import record, table_of
from bench.results import RESULTS, pool
from bench.rivals.onnx_runtime import OnnxRuntime
from bench.rivals.process import RivalCall
from bench.rivals.torch_network import TorchNetwork
from bench.timing import thread_count
from cnnkern.compression import Distill, Report
from cnnkern.compression.losses import state_bytes
from cnnkern.compression.running import in_format
from examples.datasets import Split, fashion_mnist
from examples.files import Unavailable
from examples.imagenet import crops, photos, squeezenet
from examples.measuring import Time, best_times
from examples.networks import trained_fashion_net
from examples.picture import GREY, PALETTE
from examples.training import BATCH_SIZE, augmented

STOCK = "torch"
NETWORKS = ("fashion", "squeezenet")
HELD_OUT = 5000  # training images of Fashion-MNIST that plans are judged by, and that nothing is trained on
CALIBRATION = 256
CROP_BATCH = 16
LEAST_SPAN = 4.0  # percent that the picture shows at least
CHUNK = 500  # images at once, where their number is of no matter


@dataclass(frozen=True)
class Settings:
    """`steps`: of fine-tuning; `search_seconds`: `compress`'s; `seconds`: of the last comparison."""

    networks: tuple[str, ...] = NETWORKS
    targets: tuple[float, ...] = (1.5, 2, 3)
    threads: int = 1
    steps: int = 100
    fashion_batch: int = 64
    squeezenet_batch: int = 1
    search_seconds: float = 1.0
    seconds: float = 20.0
    test_images: int = 10_000
    test_crops: int = 200


QUICK = {
    "targets": (2,),
    "steps": 5,
    "search_seconds": 0.1,
    "seconds": 3.0,
    "test_images": 1000,
    "test_crops": 32,
}


@dataclass(frozen=True)
class Subject:
    """A trained network, and what compressing and judging it needs.

    `factory` makes it without its weights. `loss` is what plans are made by; `quality` of a classifier is the
    share of `measure`: test images that it has right, or that it classifies as the original does.
    """

    name: str
    factory: str
    network: nn.Module
    x: Tensor
    calibration: list[Tensor]
    loss: Callable[[nn.Module], float]
    finetune: Distill
    measure: str
    quality: Callable[[Callable[[Tensor], Tensor]], float]


@dataclass(frozen=True)
class Point:
    """One contender: its quality, megabytes of its tensors where they are known, and its time."""

    name: str
    quality: float
    megabytes: float | None
    time: Time
    target: float | None = None
    predicted_milliseconds: float | None = None


def main(arguments: list[str] | None = None) -> int:
    """Runs the experiment. Returns the exit status."""
    options = _parser().parse_args(arguments)
    settings = Settings(tuple(options.networks), tuple(options.targets), options.threads, options.steps)
    if options.quick:
        settings = replace(settings, **QUICK)
    try:
        with thread_count(settings.threads):
            outcomes = {
                name: measure(SUBJECTS[name](settings), settings, options.cache) for name in settings.networks
            }
    except (Unavailable, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    document = {
        "settings": asdict(settings),
        "networks": {
            name: {**facts, "points": [asdict(p) for p in points]}
            for name, (facts, points) in outcomes.items()
        },
    }
    tables = [_table(facts, points) for facts, points in outcomes.values()]
    record("combined", options.output, document, tables, _draw, (5 * len(outcomes), 4), settings.threads)
    return 0


def measure(subject: Subject, settings: Settings, cache: Path | None) -> tuple[dict, list[Point]]:
    """Facts about the network, and all contenders."""
    found = {target: _compressed(subject, target, settings, cache) for target in settings.targets}
    models = {STOCK: subject.network} | {_name(target): model for target, (model, _) in found.items()}
    qualities = {name: subject.quality(model) for name, model in models.items()}
    with ExitStack() as processes:
        rivals = _rivals(subject, settings, processes)
        for name, calls in rivals.items():
            qualities[name] = subject.quality(calls[0].output)
        times = best_times(models, subject.x, settings.seconds, rivals)
    targets = {_name(target): target for target in settings.targets}
    predictions = {_name(target): report.after.predicted_seconds for target, (_, report) in found.items()}
    points = [
        Point(
            name,
            quality,
            state_bytes(models[name]) / 1e6 if name in models else None,
            times[name],
            targets.get(name),
            predictions[name] * 1e3 if predictions.get(name) else None,
        )
        for name, quality in qualities.items()
    ]
    facts = {
        "name": subject.name,
        "measure": subject.measure,
        "batch": len(subject.x),
        "chosen": {
            _name(target): {each.name: each.chosen for each in report.layers}
            for target, (_, report) in found.items()
        },
    }
    return facts, points


def _compressed(
    subject: Subject, target: float, settings: Settings, cache: Path | None
) -> tuple[nn.Module, Report]:
    folder = cache and cache / subject.name
    print(f"{subject.name}: compressing to {target:g} times the speed", file=sys.stderr)
    model, report = cnnkern.compress(
        subject.network,
        subject.x,
        target_speedup=target,
        calibration=subject.calibration,
        evaluate=subject.loss,
        finetune=subject.finetune,
        cache=folder,
        seconds=settings.search_seconds,
    )
    print(report, file=sys.stderr)
    return model, report


def _rivals(subject: Subject, settings: Settings, processes: ExitStack) -> dict[str, Sequence[RivalCall]]:
    onnx_runtime = processes.enter_context(OnnxRuntime(settings.threads))
    found = {"ONNX Runtime": [onnx_runtime.exported_contender(subject.network, subject.x)]}
    images = torch.cat(subject.calibration)
    for name, kind in (("torch.compile", "compile"), ("torch int8", "int8")):
        process = processes.enter_context(TorchNetwork(kind, subject.factory, settings.threads))
        found[name] = process.contenders(subject.network, subject.x, images)
    return found


def fashion(settings: Settings) -> Subject:
    """The network of the demo: compressed by its accuracy on images that nothing is trained on."""
    training, test = fashion_mnist(None)
    kept, held = (
        Split(training.images[part], training.labels[part])
        for part in (slice(HELD_OUT, None), slice(HELD_OUT))
    )
    x = in_format(test.images[: settings.fashion_batch], torch.channels_last)
    judged = Split(test.images[: settings.test_images], test.labels[: settings.test_images])
    return Subject(
        "Fashion-MNIST",
        "examples.networks:fashion_net",
        trained_fashion_net().to(memory_format=torch.channels_last),
        x,
        list(kept.images[:CALIBRATION].split(settings.fashion_batch)),
        lambda model: 1 - _share(model, held),
        Distill(augmented(kept, BATCH_SIZE, torch.Generator().manual_seed(0)), steps=settings.steps),
        "right",
        partial(_share, split=judged),
    )


def squeeze(settings: Settings) -> Subject:
    """SqueezeNet on crops: seen photographs to compress it with, unseen ones to judge it by."""
    network, (pictures, _) = squeezenet().to(memory_format=torch.channels_last), photos()
    generator = np.random.default_rng(0)
    seen, unseen = pictures[::2], pictures[1::2]
    test, calibration = (
        crops(some, count, generator) for some, count in ((unseen, settings.test_crops), (seen, 64))
    )

    def batches() -> Iterator[tuple[Tensor, None]]:
        while True:  # no labels: the classes that the network itself gives would only make it surer
            yield crops(seen, CROP_BATCH, generator), None

    with torch.inference_mode():
        judged = Split(test, _scores(network, test).argmax(dim=1))
        wanted = _scores(network, calibration).log_softmax(dim=1)
    return Subject(
        "SqueezeNet 1.1",
        "examples.networks:SqueezeNet",
        network,
        in_format(test[: settings.squeezenet_batch], torch.channels_last),
        list(calibration.split(CROP_BATCH)),
        lambda model: F.kl_div(
            _scores(model, calibration).log_softmax(dim=1), wanted, log_target=True, reduction="batchmean"
        ).item(),
        Distill(batches(), steps=settings.steps, learning_rate=1e-3),
        "as the original",
        partial(_share, split=judged),
    )


SUBJECTS = {"fashion": fashion, "squeezenet": squeeze}


def _share(classify: Callable[[Tensor], Tensor], split: Split) -> float:
    """The share of images that are given their label."""
    return (_scores(classify, split.images).argmax(dim=1) == split.labels).float().mean().item()


@torch.inference_mode()
def _scores(classify: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    chunk = CHUNK if images[0].numel() < 10_000 else CROP_BATCH
    return torch.cat([classify(in_format(some, torch.channels_last)) for some in images.split(chunk)])


def _name(target: float) -> str:
    return f"compress, {target:g}×"


def _table(facts: dict, points: list[Point]) -> Table:
    stock = next(point.time.milliseconds for point in points if point.name == STOCK)
    rows = [
        [
            point.name,
            f"{point.time.milliseconds:.3g}",
            f"{stock / point.time.milliseconds:.2f}",
            "" if point.predicted_milliseconds is None else f"{point.predicted_milliseconds:.3g}",
            f"{point.quality:.2%}",
            "" if point.megabytes is None else f"{point.megabytes:.2f}",
            point.time.layout,
        ]
        for point in points
    ]
    headings = ["", "ms", "times faster", "predicted ms", facts["measure"], "MB", "layout"]
    return table_of(f"{facts['name']}, batch {facts['batch']}", headings, rows)


def _draw(figure: Figure, document: dict) -> None:
    networks = document["networks"].values()
    for axes, facts in zip(figure.subplots(1, len(networks), squeeze=False)[0], networks, strict=True):
        stock = next(p["time"]["milliseconds"] for p in facts["points"] if p["name"] == STOCK)
        for point in facts["points"]:
            ours = point["target"] is not None
            x, y = stock / point["time"]["milliseconds"], 100 * point["quality"]
            axes.plot(x, y, "o" if ours else "s", color=PALETTE[0] if ours else GREY)
            axes.annotate(
                point["name"], (x, y), xytext=(3, 3), textcoords="offset points", fontsize=7, rotation=40
            )
        axes.set(
            title=f"{facts['name']}, batch {facts['batch']}",
            xlabel="times faster than torch",
            ylabel=f"% {facts['measure']}",
        )
        axes.margins(x=0.2)
        axes.set_xlim(left=0)
        low, high = axes.get_ylim()
        span = max(high - low, LEAST_SPAN)
        axes.set_ylim(high - span - 0.5, high + 0.3 * span)  # room for names
    figure.suptitle(
        f"Whole networks, {pool(document['settings']['threads'])}  ·  {document['environment']['cpu']}",
        fontsize=10,
    )


def _parser() -> argparse.ArgumentParser:
    default = Settings()
    parser = argparse.ArgumentParser(
        prog="python -m bench.experiments.combined", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=default.networks)
    parser.add_argument("--targets", nargs="+", type=float, default=default.targets, metavar="T")
    parser.add_argument("--threads", type=int, default=default.threads)
    parser.add_argument("--steps", type=int, default=default.steps, help="of fine-tuning")
    parser.add_argument("--quick", action="store_true", help="one target and few steps, about two minutes")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="where fits are kept, to go on from there")
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="DIR")
    return parser


if __name__ == "__main__":
    sys.exit(main())
