"""Group-wise brain damage on real data: ``python -m examples.pruning``.

Columns of the weight matrices of a network for Fashion-MNIST are pruned to several densities as Lebedev &
Lempitsky (CVPR 2016) do: in the first half of the training the group lasso makes columns small and a growing
share of them is pruned, in the second half the rest is fine-tuned. Then the pruned layers become
column-sparse ones and are timed against stock PyTorch. Both the network that all examples share and LeNet are
pruned. Writes the accuracies and times as tables and as JSON, and the masks that were learned as pictures.
"""

import argparse
import copy
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from bench.results import environment
from bench.timing import thread_count
from cnnkern import pruning, reference
from examples.datasets import Split, fashion_mnist
from examples.experiment import FASHION_BATCHES, FASHION_LAYERS
from examples.files import Unavailable, write_json
from examples.measuring import WHOLE, Time, network_times
from examples.networks import lenet, trained_fashion_net
from examples.pruning_picture import draw
from examples.report import WIDTH
from examples.training import LABEL_SMOOTHING, evaluate, one_cycle, train, train_one_cycle

DENSITIES = (0.4, 0.2, 0.1)
LEARNING_RATE = 0.05
STRENGTH = 0.01
"""Of the group lasso: by what a column's norm is shrunk in a step at learning rate 1."""
ROUNDS = 10
SECONDS = 2.5


@dataclass(frozen=True)
class Subject:
    """A network to prune: ``make(training, steps)`` gives it trained, in eval mode; and the layers."""

    title: str
    layers: tuple[str, ...]
    make: Callable[[Split, int], nn.Module]


@dataclass
class Outcome:
    """The network at one density.

    ``at_once`` is its accuracy (a share of the test images) with the columns of least norm pruned and nothing
    trained, ``accuracy`` that after the gradual scheme. ``columns`` are the kept ones of each layer, indices
    (c·kH + i)·kW + j. ``times``: {batch: {layer or WHOLE: {"dense", "stock", "cnnkern"}}}, where "stock" is
    the fastest stock form of the pruned layer.
    """

    density: float
    at_once: float
    accuracy: float
    columns: dict[str, list[int]]
    times: dict[int, dict[str, dict[str, Time]]]


def trained_lenet(training: Split, steps: int) -> nn.Module:
    """LeNet after ``steps`` batches of training."""
    torch.manual_seed(0)
    network = lenet()
    train_one_cycle(network, training, steps=steps, learning_rate=LEARNING_RATE, description="LeNet, dense")
    return network.eval()


SUBJECTS = {
    "fashion_mnist": Subject("Fashion-MNIST network", FASHION_LAYERS, lambda *_: trained_fashion_net()),
    "lenet": Subject("LeNet", ("conv1", "conv2"), trained_lenet),
}


def main(arguments: list[str] | None = None) -> int:
    """Runs the experiment. Returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        training, test = fashion_mnist(options.data)
    except (Unavailable, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    subjects = {name: SUBJECTS[name] for name in options.networks}
    with thread_count(options.threads):
        facts = environment()
        dense = {
            name: subject.make(training, options.dense_steps).to(memory_format=torch.channels_last)
            for name, subject in subjects.items()
        }
        pruned = {
            (name, density): sparsified(
                dense[name],
                subject.layers,
                training,
                density,
                options.steps,
                options.strength,
                f"{subject.title}, density {density:g}",
            )
            for name, subject in subjects.items()
            for density in options.densities
        }
        # all training comes before all timing
        outcomes: dict[str, list[Outcome]] = {name: [] for name in subjects}
        for (name, density), network in pruned.items():
            outcomes[name].append(measured(dense[name], network, subjects[name].layers, density, test))
    settings = {name: getattr(options, name) for name in ("densities", "steps", "dense_steps", "strength")}
    settings |= {"learning_rate": LEARNING_RATE, "rounds": ROUNDS, "seconds": SECONDS}
    console = Console()
    console.width = max(console.width, WIDTH)
    networks = {}
    for name, subject in subjects.items():
        original = evaluate(dense[name], test)
        for batch in FASHION_BATCHES:
            console.print(_table(subject.title, outcomes[name], original, batch))
        networks[name] = {"accuracy": original, "outcomes": [asdict(one) for one in outcomes[name]]}
        kept = {one.density: (one.accuracy, one.columns) for one in outcomes[name]}
        draw(options.output / f"pruning-{name}.png", dense[name], kept)
    document = {"environment": facts, "settings": settings, "networks": networks}
    write_json(options.output / "pruning.json", document)
    console.print(f"{options.output}/pruning.json and a picture for each network written")
    return 0


def sparsified(
    dense: nn.Module,
    layers: tuple[str, ...],
    training: Split,
    density: float,
    steps: int,
    strength: float,
    description: str,
) -> nn.Module:
    """A copy of ``dense``, dense in form, trained to this share of the columns of ``layers``."""
    network = copy.deepcopy(dense)
    groups = [{"params": list(network.parameters()), "max_lr": LEARNING_RATE}]
    optimizer, rates = one_cycle(groups, steps)
    pruner = pruning.Pruner(network, layers)
    every = max(1, steps // 2 // ROUNDS)
    schedule = pruning.Schedule(pruner, pruning.gradual(density, ROUNDS), every)
    pruner.hold(optimizer)

    def shrink(optimizer: torch.optim.Optimizer, *_: object) -> None:
        if not schedule.finished:
            pruning.proximal_step(network, optimizer.param_groups[0]["lr"] * strength, layers)

    optimizer.register_step_post_hook(shrink)
    train(
        network,
        training,
        optimizer,
        steps=steps,
        schedule=rates,
        label_smoothing=LABEL_SMOOTHING,
        description=description,
        before_step=lambda _: schedule.step(),
    )
    return network.eval()


def measured(
    dense: nn.Module, network: nn.Module, layers: tuple[str, ...], density: float, test: Split
) -> Outcome:
    """The accuracy of ``network`` once it is converted, and its times against ``dense``."""
    at_once = copy.deepcopy(dense)
    pruning.prune(at_once, density, layers=layers)
    converted = pruning.convert(network)
    columns = {name: converted.get_submodule(name).columns.tolist() for name in layers}
    times = {
        batch: network_times(dense, converted, layers, test.images[:batch], SECONDS, check)
        for batch in FASHION_BATCHES
    }
    return Outcome(density, evaluate(at_once, test), evaluate(converted, test), columns, times)


def check(layer: nn.Module, x: Tensor) -> None:
    """Raises AssertionError if ``layer`` is further from its oracle on ``x`` than rounding is."""
    reference.assert_within_bound(
        layer(x), reference.column_sparse_conv2d, x, layer.weight, layer.columns, layer.bias,
        kernel_size=layer.kernel_size, padding=layer.padding,
    )  # fmt: skip


def _table(title: str, outcomes: list[Outcome], original: float, batch: int) -> Table:
    table = Table(title=f"{title}, batch {batch} (original: {original:.2%} accurate)", title_justify="left")
    table.add_column("layer", no_wrap=True)
    for heading in (
        "density", "pruned\nat once", "group lasso,\nfine-tuned", "dense\nms", "pruned,\nstock ms",
        "cnnkern\nms", "faster than\ndense",
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    for outcome in outcomes:
        for name, times in outcome.times[batch].items():
            accuracies = (f"{outcome.at_once:.2%}", f"{outcome.accuracy:.2%}") if name == WHOLE else ("", "")
            table.add_row(
                name, f"{outcome.density:g}", *accuracies, *_cells(times), end_section=name == WHOLE
            )
    return table


def _cells(times: Mapping[str, Time]) -> list[str]:
    cells = [
        f"{times[who].milliseconds:.3f}" if who in times else "" for who in ("dense", "stock", "cnnkern")
    ]
    return [*cells, f"{times['dense'].milliseconds / times['cnnkern'].milliseconds:.2f}×"]


def _density(text: str) -> float:
    density = float(text)
    if not 0 < density < 1:
        raise argparse.ArgumentTypeError(f"expected a share between 0 and 1, got {text}")
    return density


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.pruning", description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with the IDX files of Fashion-MNIST")
    parser.add_argument("--output", type=Path, default=Path("demo-results"), metavar="DIR")
    parser.add_argument("--networks", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--densities", type=_density, nargs="+", default=DENSITIES)
    parser.add_argument("--steps", type=int, default=600, help="of training for each density")
    parser.add_argument("--dense-steps", type=int, default=1400, help="of training LeNet before it is pruned")
    parser.add_argument("--strength", type=float, default=STRENGTH, help="of the group lasso")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser


if __name__ == "__main__":
    sys.exit(main())
