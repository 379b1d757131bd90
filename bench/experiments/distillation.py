"""A small network taught by a large one: ``python -m bench.experiments.distillation``.

A DenseNet is trained on Fashion-MNIST, and SqueezeNets towards its softened outputs and the labels (Hinton et
al. 2015), at several temperatures T and weights λ of the labels, and towards the labels alone; all for the
same number of steps. Accuracies, with the error that comes of counting on so many test images; sizes; and the
time of an image.

A student's loss is divided by 1/T² + λ, the size of its gradient beside that of labels alone, so that T and λ
do not set the learning rate as well. All students of a seed see the same images in the same order, so that
the teacher computes its outputs once.
"""

import argparse
import hashlib
import json
import math
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from itertools import islice, product
from pathlib import Path

import torch
from rich.table import Table
from safetensors.torch import load_file, save
from torch import Tensor, nn
from tqdm import tqdm

from bench.experiments import teacher_student
from bench.experiments.blocks import operations
from bench.experiments.distillation_picture import draw
from bench.experiments.record import record, table_of
from bench.results import RESULTS
from bench.timing import thread_count
from cnnkern.compression.files import written_whole
from cnnkern.distillation import distillation_loss
from examples.datasets import Split, fashion_mnist
from examples.files import Unavailable, cache_directory
from examples.measuring import best_times
from examples.replacing import parameter_count
from examples.training import (
    BATCH_SIZE,
    PEAK_LEARNING_RATE,
    Batch,
    augmented,
    one_cycle,
    scores_of,
    steps_per_epoch,
    train_on,
    train_one_cycle,
)

BATCHES = (1, 64)
Objective = Callable[[Tensor, tuple[Tensor, Tensor], Tensor], Tensor]
"""(scores, (labels, the teacher's scores), images) -> loss."""
PUBLISHED = {
    "data": "69 classes of household goods",
    "teacher": {"network": "DenseNet", "megabytes": 430, "accuracy": 0.887},
    "taught student": {"network": "SqueezeNet", "megabytes": 4.4, "accuracy": 0.893},
}


@dataclass(frozen=True)
class Settings:
    """`images`: of the training set that are used, None for all; `seeds`: of the students that learn from
    labels alone, the taught ones have the first; `seconds`: time of one batch size."""

    temperatures: tuple[float, ...] = (1, 2, 5)
    label_weights: tuple[float, ...] = (0.1, 0.3, 0.9)
    teacher_epochs: int = 4
    epochs: int = 2
    images: int | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    threads: int = 1
    seconds: float = 5.0


QUICK = {"temperatures": (2,), "label_weights": (0.3,), "images": 6000, "seeds": (0,), "seconds": 1.0}


@dataclass(frozen=True)
class Point:
    """A student and its accuracy; neither T nor λ for one that learned from labels alone.

    `gain` is the accuracy above that of labels alone at the same seed. `error` and `gain_error` are standard
    errors of counting on the test images; the latter is smaller, since both saw the same images.
    """

    temperature: float | None
    label_weight: float | None
    seed: int
    accuracy: float
    error: float
    gain: float
    gain_error: float


@dataclass(frozen=True)
class Facts:
    """A network: its accuracy and the standard error of that; parameters; megabytes of all its tensors; FLOPs
    of an image; and milliseconds of an image by batch size, in the faster layout."""

    accuracy: float
    error: float
    parameters: int
    megabytes: float
    flops: int
    milliseconds: dict[int, float]


def main(arguments: list[str] | None = None) -> int:
    """Runs the experiment. Returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        training, test = fashion_mnist(options.data)
    except (Unavailable, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    names = {field.name for field in fields(Settings)}
    asked = {name: value for name, value in vars(options).items() if name in names}
    settings = replace(Settings(), **(QUICK if options.quick else {}), **asked)
    with thread_count(settings.threads):
        document = measure(settings, training, test)
        name = "distillation-quick" if options.quick else "distillation"
        record(
            name,
            options.output,
            document,
            [_networks(document), _students(document)],
            draw,
            (10, 4.2),
            settings.threads,
        )
    return 0


def measure(settings: Settings, training: Split, test: Split) -> dict:
    """The document, without the environment. All training comes before all timing."""
    training = Split(training.images[: settings.images], training.labels[: settings.images])
    teacher = trained_teacher(training, settings.teacher_epochs)
    steps = settings.epochs * steps_per_epoch(training, BATCH_SIZE)
    taught = taught_students(settings, teacher, training, steps)
    alone = {
        seed: trained_student(
            _batches(training, seed), steps, seed, None, f"student, labels alone, seed {seed}"
        )
        for seed in settings.seeds
    }
    first = settings.seeds[0]
    points = [_point(None, None, seed, network, network, test) for seed, network in alone.items()]
    points += [_point(*setting, first, network, alone[first], test) for setting, network in taught.items()]
    networks = {"teacher": teacher, "student": alone[first]}
    return {
        "settings": asdict(settings) | {"batch_size": BATCH_SIZE, "learning_rate": PEAK_LEARNING_RATE},
        "student_steps": steps,
        "networks": {name: asdict(each) for name, each in _facts(networks, test, settings.seconds).items()},
        "points": [asdict(point) for point in points],
        "published": PUBLISHED,
    }


def trained_teacher(training: Split, epochs: int) -> nn.Module:
    """The teacher in eval mode: that of the user's cache, or trained now and kept there.

    Raises RuntimeError if the training diverges.
    """
    recipe = {
        "growth": teacher_student.GROWTH,
        "layers": teacher_student.LAYERS,
        "images": len(training.labels),
        "labels_crc32": zlib.crc32(training.labels.numpy()),
        "epochs": epochs,
        "batch_size": BATCH_SIZE,
        "learning_rate": PEAK_LEARNING_RATE,
    }
    name = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]
    path = cache_directory() / f"distillation-teacher-{name}.safetensors"
    torch.manual_seed(0)
    network = teacher_student.teacher().to(memory_format=torch.channels_last)
    if path.exists():
        network.load_state_dict(load_file(path))
        return network.eval()
    steps = epochs * steps_per_epoch(training, BATCH_SIZE)
    losses = train_one_cycle(network, training, steps=steps, description="teacher")
    if not math.isfinite(losses[-1]):
        raise RuntimeError(f"the teacher's loss was {losses[-1]} at step {len(losses)}; it is not kept")
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    with written_whole(path) as temporary:
        temporary.write_bytes(save(state, metadata={"recipe": json.dumps(recipe)}))
    return network.eval()


def taught_students(
    settings: Settings, teacher: nn.Module, training: Split, steps: int
) -> dict[tuple[float, float], nn.Module]:
    """{(T, λ): student}, each trained on the same batches."""
    seed = settings.seeds[0]
    shown = tqdm(islice(_batches(training, seed), steps), "teacher's outputs", steps, leave=False)
    outputs = [scores_of(teacher, images) for images, _ in shown]
    students = {}
    for temperature, weight in product(settings.temperatures, settings.label_weights):
        batches = (
            (images, (labels, wanted))
            for (images, labels), wanted in zip(_batches(training, seed), outputs, strict=False)
        )
        students[temperature, weight] = trained_student(
            batches,
            steps,
            seed,
            partial(objective, temperature=temperature, label_weight=weight),
            f"student, T={temperature:g}, λ={weight:g}",
        )
    return students


def objective(
    scores: Tensor,
    answers: tuple[Tensor, Tensor],
    images: Tensor,
    *,
    temperature: float,
    label_weight: float,
) -> Tensor:
    """The loss of ``scores`` for the labels and the teacher's scores in ``answers``, of the size that the
    labels alone would give it."""
    labels, wanted = answers
    loss = distillation_loss(scores, wanted, labels, temperature=temperature, label_weight=label_weight)
    return loss / (1 / temperature**2 + label_weight)


def trained_student(
    batches: Iterable[Batch], steps: int, seed: int, loss: Objective | None, description: str
) -> nn.Module:
    """The student in eval mode; without a ``loss`` it learns from the labels alone."""
    torch.manual_seed(seed)
    network = teacher_student.student().to(memory_format=torch.channels_last)
    groups = [{"params": list(network.parameters()), "max_lr": PEAK_LEARNING_RATE}]
    optimizer, schedule = one_cycle(groups, steps)
    train_on(
        network,
        batches,
        optimizer,
        steps=steps,
        schedule=schedule,
        objective=loss,
        description=description,
    )
    return network.eval()


def gain(right: Tensor, rival: Tensor) -> tuple[float, float]:
    """How much larger the share of ``right`` is than that of ``rival``, and the standard error of that.

    Both say of the same images, (N) bool, whether they were classified right. What both got right or wrong
    adds nothing to the error.
    """
    difference = right.double() - rival.double()
    return difference.mean().item(), (difference.var(correction=0) / len(difference)).sqrt().item()


def _batches(training: Split, seed: int) -> Iterator[Batch]:
    return augmented(training, BATCH_SIZE, torch.Generator().manual_seed(seed))


def _point(
    temperature: float | None,
    label_weight: float | None,
    seed: int,
    network: nn.Module,
    alone: nn.Module,
    test: Split,
) -> Point:
    right, rival = (_right(each, test) for each in (network, alone))
    accuracy = gain(right, torch.zeros_like(right))
    return Point(temperature, label_weight, seed, *accuracy, *gain(right, rival))


def _right(network: nn.Module, test: Split) -> Tensor:
    return scores_of(network, test.images).argmax(dim=1) == test.labels


def _facts(networks: dict[str, nn.Module], test: Split, seconds: float) -> dict[str, Facts]:
    times = {batch: best_times(networks, test.images[:batch], seconds) for batch in BATCHES}
    found = {}
    for name, network in networks.items():
        right = _right(network, test)
        with torch.no_grad():
            flops = operations(network, test.images[:1])
        found[name] = Facts(
            *gain(right, torch.zeros_like(right)),
            parameter_count(network),
            sum(value.numel() * value.element_size() for value in network.state_dict().values()) / 1e6,
            flops,
            {batch: by_name[name].milliseconds / batch for batch, by_name in times.items()},
        )
    return found


def _networks(document: dict) -> Table:
    rows = []
    for name, facts in document["networks"].items():
        rows.append(
            [
                {"teacher": "DenseNet, the teacher", "student": "SqueezeNet, labels alone"}[name],
                f"{facts['accuracy']:.2%} ± {facts['error']:.2%}",
                f"{facts['megabytes']:.3f}",
                f"{facts['parameters']:,}",
                f"{facts['flops'] / 1e6:.1f}",
                *(f"{facts['milliseconds'][batch]:.3f}" for batch in BATCHES),
            ]
        )
    headings = ["network", "accuracy", "MB", "parameters", "MFLOPs", *(f"ms, batch {b}" for b in BATCHES)]
    table = table_of("Teacher and student, time of an image", headings, rows)
    published = document["published"]
    table.caption = f"published, on {published['data']}: " + ", ".join(
        f"{each['network']} {each['megabytes']} MB {each['accuracy']:.1%}"
        for each in (published["teacher"], published["taught student"])
    )
    return table


def _students(document: dict) -> Table:
    rows = []
    for point in document["points"]:
        taught = point["temperature"] is not None
        rows.append(
            [
                f"T={point['temperature']:g}, λ={point['label_weight']:g}" if taught else "labels alone",
                str(point["seed"]),
                f"{point['accuracy']:.2%} ± {point['error']:.2%}",
                f"{point['gain']:+.2%} ± {point['gain_error']:.2%}" if taught else "",
            ]
        )
    headings = ["student", "seed", "accuracy", "above labels alone"]
    table = table_of(f"Students after {document['student_steps']} steps", headings, rows)
    table.caption = "±: one standard error of counting on the test images; what a seed changes comes on top"
    return table


def _parser() -> argparse.ArgumentParser:
    default = Settings()
    parser = argparse.ArgumentParser(
        prog="python -m bench.experiments.distillation",
        description=__doc__.split("\n")[0],
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument(
        "--data", type=Path, default=None, metavar="DIR", help="folder with the IDX files of Fashion-MNIST"
    )
    parser.add_argument("--quick", action="store_true", default=False, help="a tenth of it, about one minute")
    parser.add_argument(
        "--temperatures", type=float, nargs="+", metavar="T", help=_says(default.temperatures)
    )
    parser.add_argument(
        "--label-weights", type=float, nargs="+", metavar="λ", help=_says(default.label_weights)
    )
    parser.add_argument("--teacher-epochs", type=int, metavar="N", help=_says([default.teacher_epochs]))
    parser.add_argument("--epochs", type=int, metavar="N", help="of each student; " + _says([default.epochs]))
    parser.add_argument("--images", type=int, metavar="N", help="of the training set; default: all")
    parser.add_argument(
        "--seeds", type=int, nargs="+", metavar="N", help="of labels alone; " + _says(default.seeds)
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--seconds", type=float, metavar="S", help="time of a batch size; " + _says([default.seconds])
    )
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="DIR")
    return parser


def _says(values: Sequence[float]) -> str:
    return "default: " + " ".join(str(value) for value in values)


if __name__ == "__main__":
    sys.exit(main())
