"""Perforated convolutions on real data: ``python -m examples.perforation``.

conv2 and conv3 of the Fashion-MNIST network compute only a part of their outputs, and the others take the
value of their nearest neighbour (Figurnov et al., NIPS 2016), at several rates and with four kinds of mask.
Each network's accuracy is measured before and after a short fine-tuning through the perforated layers, and
its time against the dense network. Writes a table, JSON and a picture.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bench.results import environment
from bench.timing import thread_count
from cnnkern import perforation, reference
from examples.datasets import Split, fashion_mnist
from examples.experiment import FASHION_BATCHES, FASHION_LAYERS
from examples.files import Unavailable, write_json
from examples.measuring import WHOLE, Time, layer_inputs, network_times
from examples.networks import trained_fashion_net
from examples.perforation_picture import draw
from examples.report import WIDTH
from examples.training import BATCH_SIZE, evaluate, train_one_cycle

RATES = (0.25, 0.5, 0.75)
LEARNING_RATE = 0.05
IMPACT_BATCHES = 16
SECONDS = 1.5
SPEEDUP = 1.3
"""Of the whole network, which the greedy search is to reach."""
SEARCH_CALLS = 25

Batch = tuple[Tensor, Tensor]
Pattern = Callable[[str, float], Tensor]
"""(layer, rate) -> mask (oH, oW)."""


@dataclass
class Outcome:
    """The network with one kind of mask at one rate.

    ``before`` and ``accuracy`` are shares of the test images: without any training, and after fine-tuning.
    ``masks``: {layer: rows of 0 and 1}. ``times``: {batch: {layer or WHOLE: {"dense", "stock", "cnnkern"}}},
    where "stock" is the fastest stock form of the perforated layer.
    """

    pattern: str
    rate: float
    before: float
    accuracy: float
    masks: dict[str, list[list[int]]]
    times: dict[int, dict[str, dict[str, Time]]]


def main(arguments: list[str] | None = None) -> int:
    """Runs the experiment. Returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        training, test = fashion_mnist(options.data)
    except (Unavailable, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    with thread_count(options.threads):
        facts = environment()
        dense = trained_fashion_net().to(memory_format=torch.channels_last)
        original = evaluate(dense, test)
        batches = some_batches(training)
        masks = patterns(dense, batches)
        networks = {
            (kind, rate): perforation.convert(dense, {name: mask(name, rate) for name in FASHION_LAYERS})
            for kind, mask in masks.items()
            for rate in options.rates
        }
        before = {key: evaluate(network, test) for key, network in networks.items()}
        for (kind, rate), network in networks.items():
            finetune(network, training, options.steps, f"{kind}, rate {rate:g}")
        # all training comes before all timing
        outcomes = [
            Outcome(
                *key, before[key], evaluate(network, test), masks_of(network), measured(dense, network, test)
            )
            for key, network in networks.items()
        ]
        choice = chosen_rates(dense, masks["impact"], batches, test.images[: max(FASHION_BATCHES)])
        greedy = {
            "speedup_asked": SPEEDUP,
            "speedup": choice.speedup,
            "rates": choice.rates,
            "steps": [asdict(step) for step in choice.steps],
            "before": evaluate(choice.model, test),
        }
        finetune(choice.model, training, options.steps, "greedily chosen rates")
        greedy["accuracy"] = evaluate(choice.model, test)
    console = Console()
    console.width = max(console.width, WIDTH)
    for batch in FASHION_BATCHES:
        console.print(_table(outcomes, original, batch))
    console.print(
        f"Rates chosen greedily, network {choice.speedup:.2f}× faster at batch {max(FASHION_BATCHES)}: "
        + ", ".join(f"{name} {rate:g}" for name, rate in choice.rates.items())
        + f"; accuracy {greedy['before']:.2%}, fine-tuned {greedy['accuracy']:.2%}"
    )
    document = {
        "environment": facts,
        "settings": {"steps": options.steps, "learning_rate": LEARNING_RATE, "seconds": SECONDS},
        "accuracy": original,
        "outcomes": [asdict(one) for one in outcomes],
        "greedy": greedy,
    }
    write_json(options.output / "perforation.json", document)
    draw(options.output / "perforation.png", document)
    console.print(f"{options.output}/perforation.json and perforation.png written")
    return 0


def some_batches(training: Split) -> list[Batch]:
    """Batches that impacts and losses are measured on."""
    some = slice(IMPACT_BATCHES * BATCH_SIZE)
    images, labels = training.images[some].split(BATCH_SIZE), training.labels[some].split(BATCH_SIZE)
    return list(zip(images, labels, strict=True))


def patterns(dense: nn.Module, batches: list[Batch]) -> dict[str, Pattern]:
    """The kinds of mask, for the layers of ``dense`` that are perforated."""
    maps = layer_inputs(dense, list(FASHION_LAYERS), batches[0][0][:1])
    sizes = {name: tuple(x.shape[-2:]) for name, x in maps.items()}
    pools = {name: dense.get_submodule(name.replace("conv", "pool")) for name in FASHION_LAYERS}
    impacts = perforation.impact_scores(dense, loss_of_batch, batches, FASHION_LAYERS)
    return {
        "uniform": lambda name, rate: perforation.uniform(sizes[name], rate),
        "grid": lambda name, rate: perforation.grid(sizes[name], rate),
        "pooling structure": lambda name, rate: perforation.pooling_structure(
            sizes[name], rate, pools[name].kernel_size, pools[name].stride
        ),
        "impact": lambda name, rate: perforation.impact(impacts[name], rate),
    }


def chosen_rates(dense: nn.Module, mask: Pattern, batches: list[Batch], x: Tensor) -> perforation.RateChoice:
    """Rates for the two layers, chosen by measured time on ``x`` and measured loss."""
    return perforation.choose_rates(
        dense,
        FASHION_LAYERS,
        [i / 8 for i in range(1, 8)],
        masks=mask,
        evaluate=lambda network: (
            sum(float(loss_of_batch(network, batch)) for batch in batches) / len(batches)
        ),
        measure=perforation.seconds_of(x, calls=SEARCH_CALLS),
        speedup=SPEEDUP,
    )


def finetune(network: nn.Module, training: Split, steps: int, description: str) -> None:
    """Trains all of ``network`` in place, through its perforated layers."""
    train_one_cycle(network, training, steps=steps, learning_rate=LEARNING_RATE, description=description)
    network.eval()


def masks_of(network: nn.Module) -> dict[str, list[list[int]]]:
    """The masks of the perforated layers, by name."""
    return {name: network.get_submodule(name).mask.int().tolist() for name in FASHION_LAYERS}


def measured(dense: nn.Module, network: nn.Module, test: Split) -> dict[int, dict[str, dict[str, Time]]]:
    """The time of each perforated layer on the maps that it gets, and of the whole network, by batch."""
    return {
        batch: network_times(dense, network, FASHION_LAYERS, test.images[:batch], SECONDS, check)
        for batch in FASHION_BATCHES
    }


def check(layer: nn.Module, x: Tensor) -> None:
    """Raises AssertionError if ``layer`` is further from its oracle on ``x`` than rounding is."""
    reference.assert_within_bound(
        layer(x), reference.perforated_conv2d, x, layer.weight, layer.mask, layer.bias, padding=layer.padding
    )


def loss_of_batch(network: nn.Module, batch: Batch) -> Tensor:
    """The mean cross entropy."""
    images, labels = batch
    return cross_entropy(network(images), labels)


def _table(outcomes: list[Outcome], original: float, batch: int) -> Table:
    table = Table(
        title=f"Fashion-MNIST, conv2 and conv3 perforated, batch {batch} (original: {original:.2%} accurate)",
        title_justify="left",
    )
    table.add_column("mask", no_wrap=True)
    for heading in (
        "rate", "accuracy", "fine-tuned", *(f"{name},\nfaster" for name in FASHION_LAYERS), "network\nms",
        "dense\nms", "network,\nfaster",
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    for outcome in outcomes:
        times = outcome.times[batch]
        dense, ours = times[WHOLE]["dense"].milliseconds, times[WHOLE]["cnnkern"].milliseconds
        table.add_row(
            outcome.pattern,
            f"{outcome.rate:g}",
            f"{outcome.before:.2%}",
            f"{outcome.accuracy:.2%}",
            *(
                f"{times[name]['dense'].milliseconds / times[name]['cnnkern'].milliseconds:.2f}×"
                for name in FASHION_LAYERS
            ),
            f"{ours:.3f}",
            f"{dense:.3f}",
            f"{dense / ours:.2f}×",
            end_section=outcome.rate == max(one.rate for one in outcomes),
        )
    return table


def _rate(text: str) -> float:
    rate = float(text)
    if not 0 <= rate < 1:
        raise argparse.ArgumentTypeError(f"expected a share of at least 0 and below 1, got {text}")
    return rate


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.perforation", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with the IDX files of Fashion-MNIST")
    parser.add_argument("--output", type=Path, default=Path("demo-results"), metavar="DIR")
    parser.add_argument("--rates", type=_rate, nargs="+", default=RATES)
    parser.add_argument("--steps", type=int, default=300, help="of fine-tuning for each mask and rate")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser


if __name__ == "__main__":
    sys.exit(main())
