"""What keeps a CP layer from exploding in training: ``python -m examples.stability``.

The Fashion-MNIST network with both CP layers is fine-tuned at the peak learning rate that it was trained
with, with each combination of three remedies: the error-preserving correction of degenerate fits (Phan et
al. 2020), norms balanced over the four factors, and a learning rate for each factor
(``examples.finetuning``). Training one factor at a time, which Lebedev et al. 2015 named as a way around the
instability, is measured without the remedies and with all of them. Writes the loss curves as a picture and
as JSON.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from bench.results import environment
from bench.timing import thread_count
from cnnkern import CPConv2d, decomposition
from cnnkern.decomposition import CPFactors
from examples.datasets import Split, fashion_mnist
from examples.experiment import FASHION_LAYERS
from examples.files import Unavailable, write_json
from examples.finetuning import FACTORS, factor_rates, finetune
from examples.networks import trained_fashion_net
from examples.replacing import replaced
from examples.stability_picture import draw
from examples.training import BATCH_SIZE, PEAK_LEARNING_RATE, evaluate

TURN = 10


@dataclass(frozen=True)
class Variant:
    """Which of the remedies are in force, and for how many steps a factor trains alone; None: never."""

    corrected: bool = False
    balanced: bool = False
    scaled: bool = False
    alternate: int | None = None

    @property
    def name(self) -> str:
        """The remedies, for people."""
        remedies = {
            "correction": self.corrected,
            "balanced norms": self.balanced,
            "rate per factor": self.scaled,
        }
        names = [name for name, chosen in remedies.items() if chosen]
        words = ["all three"] if len(names) == len(remedies) else names
        return " + ".join([*words, *(["factors in turn"] if self.alternate else [])]) or "nothing done"


VARIANTS = (
    Variant(),
    Variant(balanced=True),
    Variant(scaled=True),
    Variant(corrected=True),
    Variant(balanced=True, scaled=True),
    Variant(corrected=True, balanced=True),
    Variant(corrected=True, scaled=True),
    Variant(corrected=True, balanced=True, scaled=True),
    Variant(alternate=TURN),
    Variant(corrected=True, balanced=True, scaled=True, alternate=TURN),
)


@dataclass(frozen=True)
class Run:
    """One fine-tuning: the test accuracy (0..1) that it led to, and the loss of every step."""

    seed: int
    accuracy: float
    losses: list[float]


@dataclass(frozen=True)
class Outcome:
    """How the fine-tunings of a variant went, on the batches of several seeds.

    ``stretch`` is by how much a step of a factor can be longer than a dense layer's at the same rate: the
    largest λ of ``examples.finetuning``. ``accuracy_before`` is a share of the test images.
    """

    name: str
    variant: Variant
    stretch: float
    accuracy_before: float
    runs: list[Run]

    @property
    def accuracy(self) -> float:
        """The mean over the runs."""
        return fmean(run.accuracy for run in self.runs)


def main(arguments: list[str] | None = None) -> int:
    """Trains all variants, prints a table, writes the JSON file and the picture. Returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        training, test = fashion_mnist(options.data)
    except (Unavailable, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    with thread_count(options.threads):
        facts = environment()
        original = evaluate(trained_fashion_net(), test)
        fits = {corrected: fit_layers(options.rank, corrected) for corrected in (False, True)}
        outcomes = [
            run(variant, fits[variant.corrected], training, test, options.steps, options.seeds)
            for variant in VARIANTS
        ]
    Console().print(_table(outcomes, options.rank))
    settings = {
        "rank": options.rank,
        "steps": options.steps,
        "batch_size": BATCH_SIZE,
        "learning_rate": PEAK_LEARNING_RATE,
    }
    document = {
        "environment": facts,
        "settings": settings,
        "accuracy_original": original,
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }
    write_json(options.output / "stability.json", document)
    draw(options.output / "stability.png", document)
    return 0


def fit_layers(rank: int, corrected: bool) -> dict[str, CPFactors]:
    """The factors of both layers, with the error-preserving correction or without."""
    network = trained_fashion_net()
    weights = {name: network.get_submodule(name).weight.detach() for name in FASHION_LAYERS}
    return {
        name: decomposition.cp(weight, rank, correction=corrected, verbose=False)
        for name, weight in weights.items()
    }


def run(
    variant: Variant,
    fits: Mapping[str, CPFactors],
    training: Split,
    test: Split,
    steps: int,
    seeds: int,
) -> Outcome:
    """Replaces both layers and fine-tunes the whole network, on the same batches for every variant."""
    dense = trained_fashion_net()
    layers = {name: cp_layer(dense.get_submodule(name), fit, variant.balanced) for name, fit in fits.items()}
    start = replaced(dense, layers).eval().to(memory_format=torch.channels_last)
    stretch = max(1 / rate for layer in layers.values() for rate in factor_rates(layer).values())
    runs = []
    for seed in range(seeds):
        network = replaced(start, {})
        losses = finetune(
            network,
            training,
            steps=steps,
            scaled=variant.scaled,
            alternate=variant.alternate,
            seed=seed,
            description=f"{variant.name}, run {seed + 1} of {seeds}",
        )
        runs.append(Run(seed, evaluate(network, test), [round(loss, 4) for loss in losses]))
    return Outcome(variant.name, variant, stretch, evaluate(start, test), runs)


@torch.no_grad()
def cp_layer(conv: nn.Conv2d, fit: CPFactors, balanced: bool) -> CPConv2d:
    """The CP layer with the factors ``fit`` of a convolution without bias and padding mode."""
    layer = CPConv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        padding=conv.padding,
        bias=False,
        rank=fit.rank,
    )
    for name in FACTORS:
        getattr(layer, name).copy_(getattr(fit, name))
    if not balanced:
        # What most fits hand out: unit columns, and the norm of the component in one factor.
        for name in ("factor_c", "factor_h", "factor_w"):
            factor = getattr(layer, name)
            norms = factor.norm(dim=1, keepdim=True)
            factor.div_(norms)
            layer.factor_k.mul_(norms.T)
    return layer


def _table(outcomes: list[Outcome], rank: int) -> Table:
    table = Table(title=f"Both layers at R={rank}, learning rate {PEAK_LEARNING_RATE}", title_justify="left")
    for heading in ("remedies", "stretch", "before", "after", "worst run", "worst loss"):
        table.add_column(heading, justify="left" if heading == "remedies" else "right")
    for outcome in outcomes:
        table.add_row(
            outcome.name,
            f"{outcome.stretch:,.0f}",
            f"{outcome.accuracy_before:.1%}",
            f"{outcome.accuracy:.1%}",
            f"{min(run.accuracy for run in outcome.runs):.1%}",
            f"{max(loss for run in outcome.runs for loss in run.losses):.3g}",
        )
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.stability", description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with the IDX files of Fashion-MNIST")
    parser.add_argument("--output", type=Path, default=Path("demo-results"), metavar="DIR")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=3, help="fine-tunings of each variant")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser


if __name__ == "__main__":
    sys.exit(main())
