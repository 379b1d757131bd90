"""What keeps a CP layer from exploding in training: ``python -m examples.stability``.

The Fashion-MNIST network with both CP layers is fine-tuned at the peak learning rate that it was trained
with: first with nothing done about stability, then with the error-preserving correction of degenerate fits
(Phan et al. 2020), with norms balanced over the four factors, with a learning rate for each factor
(``examples.finetuning``), and with all of them. Writes the loss curves as a picture and as JSON.
"""

import argparse
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import nn

from bench.results import environment
from bench.timing import thread_count
from cnnkern import CPConv2d, decomposition
from examples.datasets import Split, fashion_mnist
from examples.experiment import FASHION_LAYERS
from examples.files import Unavailable, write_json, written_whole
from examples.finetuning import FACTORS, factor_rates, finetune
from examples.networks import trained_fashion_net
from examples.picture import PALETTE, STYLE
from examples.replacing import replaced
from examples.training import PEAK_LEARNING_RATE, evaluate

SMOOTHING = 0.9


@dataclass(frozen=True)
class Variant:
    """Which of the remedies are in force."""

    name: str
    corrected: bool = False
    balanced: bool = False
    scaled: bool = False


VARIANTS = (
    Variant("nothing done"),
    Variant("balanced norms", balanced=True),
    Variant("correction", corrected=True),
    Variant("correction, balanced norms", corrected=True, balanced=True),
    Variant("balanced norms, rate per factor", balanced=True, scaled=True),
    Variant("all three", corrected=True, balanced=True, scaled=True),
)


@dataclass(frozen=True)
class Outcome:
    """How the fine-tuning of a variant went.

    ``stretch`` is by how much a step of a factor can be longer than a dense layer's, the largest λ of
    ``examples.finetuning``; accuracies are shares of the test images, ``losses`` has every step's.
    """

    variant: Variant
    stretch: float
    accuracy_before: float
    accuracy_after: float
    losses: list[float]


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
        outcomes = [run(variant, training, test, options.rank, options.steps) for variant in VARIANTS]
    Console().print(_table(outcomes, options.rank))
    settings = {"rank": options.rank, "steps": options.steps, "learning_rate": PEAK_LEARNING_RATE}
    document = {"environment": facts, "settings": settings, "outcomes": [asdict(one) for one in outcomes]}
    write_json(options.output / "stability.json", document)
    draw(options.output / "stability.png", outcomes, options.rank)
    return 0


def run(variant: Variant, training: Split, test: Split, rank: int, steps: int) -> Outcome:
    """Replaces both layers and fine-tunes the whole network, on the same batches for every variant."""
    network = trained_fashion_net()
    layers = {name: cp_layer(network.get_submodule(name), rank, variant) for name in FASHION_LAYERS}
    network = replaced(network, layers).eval()
    stretch = max(1 / rate for layer in layers.values() for rate in factor_rates(layer).values())
    before = evaluate(network, test)
    losses = finetune(network, training, steps=steps, scaled=variant.scaled, description=variant.name)
    return Outcome(variant, stretch, before, evaluate(network, test), losses)


@torch.no_grad()
def cp_layer(conv: nn.Conv2d, rank: int, variant: Variant) -> CPConv2d:
    """The CP layer of a convolution without bias and padding mode, fitted as ``variant`` says."""
    fit = decomposition.cp(conv.weight.detach(), rank, correction=variant.corrected, verbose=False)
    layer = CPConv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, padding=conv.padding, bias=False, rank=rank
    )
    for name in FACTORS:
        getattr(layer, name).copy_(getattr(fit, name))
    if not variant.balanced:
        # What most fits hand out: unit columns, and the norm of the component in one factor.
        for name in ("factor_c", "factor_h", "factor_w"):
            factor = getattr(layer, name)
            norms = factor.norm(dim=1, keepdim=True)
            factor.div_(norms)
            layer.factor_k.mul_(norms.T)
    return layer


def draw(path: Path, outcomes: list[Outcome], rank: int) -> None:
    """Writes the smoothed loss of every variant to ``path``, whole or not at all."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 4.5), layout="constrained")
        axes = figure.subplots()
        for outcome, colour in zip(outcomes, PALETTE, strict=False):
            line = "-" if outcome.variant.corrected else "--"
            label = f"{outcome.variant.name} ({outcome.accuracy_after:.1%})"
            axes.plot(_smooth(outcome.losses), line, color=colour, label=label)
        axes.set_yscale("log")
        axes.set_xlabel("step")
        axes.set_ylabel("training loss, smoothed")
        axes.set_title(
            f"Fine-tuning at the stock learning rate {PEAK_LEARNING_RATE}, both layers at R={rank}"
        )
        axes.legend(title="remedies (test accuracy afterwards)")
        with written_whole(path) as temporary:
            figure.savefig(temporary, dpi=150)


def _smooth(losses: list[float]) -> list[float]:
    """The running mean with exponential weights, without the pull of its start."""
    smooth, mean = [], 0.0
    for step, loss in enumerate(losses, start=1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smooth.append(mean / (1 - SMOOTHING**step))
    return smooth


def _table(outcomes: list[Outcome], rank: int) -> Table:
    table = Table(title=f"Both layers at R={rank}, learning rate {PEAK_LEARNING_RATE}", title_justify="left")
    for heading in ("remedies", "stretch", "before", "after", "worst loss"):
        table.add_column(heading, justify="left" if heading == "remedies" else "right")
    for outcome in outcomes:
        table.add_row(
            outcome.variant.name,
            f"{outcome.stretch:.3g}",
            f"{outcome.accuracy_before:.2%}",
            f"{outcome.accuracy_after:.2%}",
            f"{max(outcome.losses):.3g}",
        )
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.stability", description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with the IDX files of Fashion-MNIST")
    parser.add_argument("--output", type=Path, default=Path("demo-results"), metavar="DIR")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser


if __name__ == "__main__":
    sys.exit(main())
