"""Group-wise brain damage on real data: ``python -m examples.pruning``.

Columns of the weight matrices of conv2 and conv3 of the Fashion-MNIST network are pruned to several densities
as Lebedev & Lempitsky (CVPR 2016) do: in the first half of the training the group lasso makes columns small
and a growing share of them is pruned, in the second half the rest is fine-tuned. Then the pruned layers
become column-sparse ones and are timed against stock PyTorch. Writes the accuracies and times as a table and
as JSON, and the masks that were learned as a picture.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from bench.results import environment
from bench.timing import thread_count
from cnnkern import pruning, reference
from cnnkern.compression.files import written_whole
from examples.datasets import Split, fashion_mnist
from examples.experiment import FASHION_BATCHES, FASHION_LAYERS, WHOLE
from examples.files import Unavailable, write_json
from examples.measuring import Time, best_times, layer_inputs
from examples.networks import trained_fashion_net
from examples.picture import STYLE
from examples.report import WIDTH
from examples.training import LABEL_SMOOTHING, evaluate, one_cycle, train

DENSITIES = (0.4, 0.2, 0.1)
LEARNING_RATE = 0.05
STRENGTH = 0.01
"""Of the group lasso: by what a column's norm is shrunk in a step at learning rate 1."""
ROUNDS = 10
SECONDS = 2.5


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
        dense = trained_fashion_net()
        original = evaluate(dense, test)
        networks = {
            density: sparsified(training, density, options.steps, options.strength)
            for density in options.densities
        }
        # all training comes before all timing
        outcomes = [measured(dense, network, density, test) for density, network in networks.items()]
    console = Console()
    console.width = max(console.width, WIDTH)
    for batch in FASHION_BATCHES:
        console.print(_table(outcomes, original, batch))
    settings = {name: getattr(options, name) for name in ("densities", "steps", "strength")}
    settings |= {"learning_rate": LEARNING_RATE, "rounds": ROUNDS, "seconds": SECONDS}
    document = {"environment": facts, "settings": settings, "accuracy": original}
    write_json(options.output / "pruning.json", {**document, "outcomes": [asdict(one) for one in outcomes]})
    draw(options.output / "pruning.png", dense, outcomes)
    console.print(f"{options.output}/pruning.json and pruning.png written")
    return 0


def sparsified(training: Split, density: float, steps: int, strength: float) -> nn.Module:
    """The trained network, dense in form, with this share of the columns of conv2 and conv3 left."""
    network = trained_fashion_net()
    groups = [{"params": list(network.parameters()), "max_lr": LEARNING_RATE}]
    optimizer, rates = one_cycle(groups, steps)
    pruner = pruning.Pruner(network, FASHION_LAYERS)
    every = max(1, steps // 2 // ROUNDS)
    schedule = pruning.Schedule(pruner, pruning.gradual(density, ROUNDS), every)
    pruner.hold(optimizer)

    def shrink(optimizer: torch.optim.Optimizer, *_: object) -> None:
        if not schedule.finished:
            pruning.proximal_step(network, optimizer.param_groups[0]["lr"] * strength, FASHION_LAYERS)

    optimizer.register_step_post_hook(shrink)
    train(
        network,
        training,
        optimizer,
        steps=steps,
        schedule=rates,
        label_smoothing=LABEL_SMOOTHING,
        description=f"density {density}",
        before_step=lambda _: schedule.step(),
    )
    return network.eval()


def measured(dense: nn.Module, network: nn.Module, density: float, test: Split) -> Outcome:
    """The accuracy of ``network`` once it is converted, and its times against ``dense``."""
    at_once = trained_fashion_net()
    pruning.prune(at_once, density, layers=FASHION_LAYERS)
    converted = pruning.convert(network)
    columns = {name: converted.get_submodule(name).columns.tolist() for name in FASHION_LAYERS}
    times = {batch: measure_times(dense, converted, test.images[:batch]) for batch in FASHION_BATCHES}
    return Outcome(density, evaluate(at_once, test), evaluate(converted, test), columns, times)


def measure_times(dense: nn.Module, converted: nn.Module, x: Tensor) -> dict[str, dict[str, Time]]:
    """The time of each pruned layer on the maps that it gets, and of the whole network on ``x``.

    Raises AssertionError, before anything is timed, if a layer is further from its oracle than rounding is.
    """
    times = {}
    for name, maps in layer_inputs(converted, list(FASHION_LAYERS), x).items():
        layer = converted.get_submodule(name)
        with torch.inference_mode():
            reference.assert_within_bound(
                layer(maps), reference.column_sparse_conv2d, maps, layer.weight, layer.columns, layer.bias,
                kernel_size=layer.kernel_size, padding=layer.padding,
            )  # fmt: skip
        modules = {"dense": dense.get_submodule(name), "stock": layer.to_stock(), "cnnkern": layer}
        times[name] = best_times(modules, maps, SECONDS)
    times[WHOLE] = best_times({"dense": dense, "cnnkern": converted}, x, SECONDS)
    return times


def draw(path: Path, network: nn.Module, outcomes: list[Outcome]) -> None:
    """Writes the learned masks to ``path``, whole or not at all: for each layer how many channels keep each
    entry of the kernel, and the entries that each channel keeps."""
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(3.4 * len(outcomes), 11), layout="constrained")
        grid = figure.subplots(2 * len(FASHION_LAYERS), len(outcomes), squeeze=False)
        for row, name in enumerate(FASHION_LAYERS):
            conv = network.get_submodule(name)
            for column, outcome in enumerate(outcomes):
                kept = torch.zeros(conv.in_channels, *conv.kernel_size)
                kept.view(-1)[outcome.columns[name]] = 1
                share, channels = grid[2 * row][column], grid[2 * row + 1][column]
                share.set_title(f"{name}, density {outcome.density:g}: {outcome.accuracy:.1%} accurate")
                _heat_map(share, kept)
                _channel_masks(channels, kept)
        figure.suptitle(
            "Filter masks learned by the group lasso: channels that keep an entry; each channel's"
        )
        with written_whole(path) as temporary:
            figure.savefig(temporary, dpi=150)


def _heat_map(axes: Axes, kept: Tensor) -> None:
    share = kept.mean(dim=0)
    axes.imshow(share.numpy(), vmin=0, vmax=1, cmap="viridis")
    for (i, j), value in zip(
        torch.cartesian_prod(*map(torch.arange, share.shape)), share.view(-1), strict=True
    ):
        axes.text(j, i, f"{value:.0%}", ha="center", va="center", color="white" if value < 0.6 else "black")
    axes.set_axis_off()


def _channel_masks(axes: Axes, kept: Tensor) -> None:
    """The masks (C, kH, kW) as tiles, eight in a row, with a grey line between them."""
    tiles = nn.functional.pad(kept, (0, 1, 0, 1), value=0.5)
    rows = [torch.cat(list(some), dim=1) for some in tiles.split(8)]
    axes.imshow(torch.cat(rows).numpy(), vmin=0, vmax=1, cmap="gray")
    axes.set_axis_off()


def _table(outcomes: list[Outcome], original: float, batch: int) -> Table:
    title = f"Fashion-MNIST, batch {batch} (original: {original:.2%} accurate)"
    table = Table(title=title, title_justify="left")
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
    parser.add_argument("--densities", type=_density, nargs="+", default=DENSITIES)
    parser.add_argument("--steps", type=int, default=600, help="of training for each density")
    parser.add_argument("--strength", type=float, default=STRENGTH, help="of the group lasso")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser


if __name__ == "__main__":
    sys.exit(main())
