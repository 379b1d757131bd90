"""CharNet by CP rank: ``python -m bench.experiments.charnet``.

The first experiment of Lebedev et al. 2015: a network for 24x24 characters, trained here on those of real
fonts, whose second and third convolutions are replaced by CP layers. For ranks from 16 to 512 the error of
the fit, the accuracy before and after fine-tuning, the parameters, and how many times faster the layer and
the whole network are than torch's, in its fastest layout; and the paper's own recipe at rank 64. The trained
network is kept in the user's cache.
"""

import argparse
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor, nn
from tqdm import tqdm

from bench.experiments import charnet_training as training
from bench.experiments.blocks import with_our_layers
from bench.experiments.charnet_picture import draw
from bench.experiments.charnet_training import LAYERS
from bench.experiments.record import record, table_of
from bench.results import RESULTS
from bench.timing import thread_count
from cnnkern import CPConv2d
from examples.characters import Characters, characters
from examples.files import Unavailable
from examples.fitting import fit_layers, fitting_pool
from examples.measuring import Time, best_times, check_layer, layer_inputs
from examples.replacing import approximation_error, parameter_count, replaced, stock_form
from examples.training import evaluate

RANKS = (16, 32, 64, 128, 256, 512)
PUBLISHED = "both, as published"
CHOICES = {**{name: (name,) for name in LAYERS}, "both": LAYERS, PUBLISHED: LAYERS}
PAPER = {"rank": 64, "accuracy": 0.902, "original": 0.912, "times_faster": 8.5}
Fits = dict[int, dict[str, CPConv2d]]  # by rank and layer


@dataclass(frozen=True)
class Settings:
    """`steps` of fine-tuning; `seconds` is what the rounds of one layer, and of the network, take; `fonts` at
    most; `shrink` divides the channels."""

    ranks: tuple[int, ...] = RANKS
    epochs: int = 8
    steps: int = 100
    batch: int = 64
    threads: int = torch.get_num_threads()
    seconds: float = 15.0
    seed: int = 0
    fonts: int | None = None
    shrink: int = 1


QUICK = {"ranks": (16, 64), "epochs": 2, "steps": 20, "seconds": 2.0, "fonts": 100}


@dataclass(frozen=True)
class Point:
    """One layer at one rank: the relative error of the fit, its share of the dense layer's parameters, and
    the times of torch's dense layer, of the four stock convolutions and of the fused layer."""

    layer: str
    rank: int
    error: float
    parameters: float
    torch: Time
    stock: Time
    cnnkern: Time


@dataclass(frozen=True)
class Network:
    """The network with `replaced` layers: its accuracy on the test before and after fine-tuning, its share of
    the original's parameters, and the times of the original, with four stock convolutions, with the fused
    layers, and with all convolutions on our kernels."""

    replaced: str
    rank: int
    before: float
    after: float
    parameters: float
    torch: Time
    stock: Time
    cnnkern: Time
    all_ours: Time


@dataclass(frozen=True)
class Tuned:
    """A fine-tuned network, before it is timed."""

    replaced: str
    rank: int
    module: nn.Module
    before: float
    after: float


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    options = _parser().parse_args(arguments)
    settings = _settings(options)
    with thread_count(settings.threads):
        try:
            data = characters(options.data, settings.fonts)
            document, tables = run(settings, data)
        except (Unavailable, training.Diverged) as error:
            print(error, file=sys.stderr)
            return 1
        name = "charnet-quick" if options.quick else "charnet"
        record(name, options.output, document, tables, draw, (13, 7.6), settings.threads)
    return 0


def run(settings: Settings, data: Characters) -> tuple[dict, list[Table]]:
    """The document and its tables. All that trains comes before all that is timed."""
    dense = training.trained(data, epochs=settings.epochs, seed=settings.seed, shrink=settings.shrink)
    original = evaluate(dense, data.test)
    fits = _fit(dense, settings)
    tuned = _tune(dense, fits, data, settings)
    # What the fine-tuning alone brings, since training was short.
    longer = training.together(dense, {}, data.training, settings.steps, seed=settings.seed)
    x = data.test.images[: settings.batch]
    points = _time_layers(dense, fits, x, settings.seconds)
    networks = _time_networks(dense, tuned, x, settings.seconds)
    document = {
        "settings": asdict(settings),
        "data": {
            "fonts": data.found,
            "readable_fonts": data.used,
            "training_characters": len(data.training.labels),
            "test_characters": len(data.test.labels),
        },
        "accuracy": original,
        "accuracy_tuned_alike": evaluate(longer, data.test),
        "points": [asdict(point) for point in points],
        "networks": [asdict(network) for network in networks],
        "paper": PAPER,
    }
    return document, [_layer_table(points), _network_table(networks, document)]


def _fit(dense: nn.Module, settings: Settings) -> Fits:
    jobs = {(rank, name): (dense.get_submodule(name), rank) for rank in settings.ranks for name in LAYERS}
    fits: Fits = {rank: {} for rank in settings.ranks}
    with fitting_pool(settings.threads) as pool:
        done = fit_layers(pool, jobs)
        for (rank, name), layer, _ in tqdm(done, desc="fitting", total=len(jobs), unit="layer", leave=False):
            fits[rank][name] = layer
    return fits


def _tune(dense: nn.Module, fits: Fits, data: Characters, settings: Settings) -> list[Tuned]:
    jobs = [(what, rank) for what in CHOICES for rank in fits if what != PUBLISHED or rank == PAPER["rank"]]
    tuned = []
    for what, rank in tqdm(jobs, desc="fine-tuning", unit="network", leave=False):
        layers = {name: fits[rank][name] for name in CHOICES[what]}
        recipe = training.as_published if what == PUBLISHED else training.together
        module = recipe(dense, layers, data.training, settings.steps, seed=settings.seed)
        before = evaluate(replaced(dense, layers).eval(), data.test)
        tuned.append(Tuned(what, rank, module, before, evaluate(module, data.test)))
    return tuned


def _time_layers(dense: nn.Module, fits: Fits, x: Tensor, seconds: float) -> list[Point]:
    maps = layer_inputs(dense, list(LAYERS), x)
    points = []
    for name in LAYERS:
        conv = dense.get_submodule(name)
        modules: dict[tuple[str, int], nn.Module] = {("torch", 0): conv}
        for rank, layers in fits.items():
            check_layer(layers[name], maps[name])
            modules["stock", rank] = layers[name].to_stock()
            modules["cnnkern", rank] = layers[name]
        times = best_times(modules, maps[name], seconds)
        for rank, layers in fits.items():
            error = approximation_error(layers[name], conv)
            share = parameter_count(layers[name]) / parameter_count(conv)
            points.append(Point(name, rank, error, share, *_three(times, rank)))
    return points


def _time_networks(dense: nn.Module, tuned: list[Tuned], x: Tensor, seconds: float) -> list[Network]:
    modules: dict[tuple[str, int], nn.Module] = {("torch", 0): dense}
    for number, each in enumerate(tuned):
        modules["stock", number] = stock_form(each.module)
        modules["cnnkern", number] = each.module
        modules["all ours", number] = with_our_layers(each.module)
    times = best_times(modules, x, seconds)
    return [
        Network(
            each.replaced, each.rank, each.before, each.after,
            parameter_count(each.module) / parameter_count(dense),
            *_three(times, number), times["all ours", number],
        )
        for number, each in enumerate(tuned)
    ]  # fmt: skip


def _three(times: dict[tuple[str, int], Time], key: int) -> tuple[Time, Time, Time]:
    return times["torch", 0], times["stock", key], times["cnnkern", key]


def _times_faster(dense: Time, *times: Time) -> list[str]:
    return [f"{dense.milliseconds / time.milliseconds:.2f}" for time in times]


def _layer_table(points: list[Point]) -> Table:
    rows = [
        [
            point.layer, str(point.rank), f"{point.error:.3f}", f"{point.parameters:.1%}",
            *_times_faster(point.torch, point.stock, point.cnnkern),
        ]
        for point in points
    ]  # fmt: skip
    headings = ["layer", "rank", "error", "parameters", "four stock", "fused"]
    return table_of("CharNet's layers by CP rank: relative error, times faster than torch's", headings, rows)


def _network_table(networks: list[Network], document: dict) -> Table:
    original, data = document["accuracy"], document["data"]
    rows = [
        [
            each.replaced, str(each.rank), f"{each.before:.1%}", f"{each.after:.1%}",
            f"{100 * (each.after - original):+.1f}", f"{each.parameters:.1%}",
            *_times_faster(each.torch, each.stock, each.cnnkern, each.all_ours),
        ]
        for each in networks
    ]  # fmt: skip
    change = f"{100 * (PAPER['accuracy'] - PAPER['original']):+.1f}"
    paper = [str(PAPER["rank"]), "", f"{PAPER['accuracy']:.1%}", change, "", str(PAPER["times_faster"])]
    rows.append(["both, in the paper", *paper, "", ""])
    headings = ["replaced", "rank", "before", "tuned", "points", "parameters"]
    headings += ["four stock", "fused", "all ours"]
    table = table_of("The whole network: accuracy, times faster than torch's", headings, rows)
    table.caption = (
        f"original {original:.1%}, tuned alike {document['accuracy_tuned_alike']:.1%}, of "
        f"{data['test_characters']:,} characters of fonts that it was not trained with; "
        f"{data['readable_fonts']} of {data['fonts']} fonts can be read"
    )
    return table


def _settings(options: argparse.Namespace) -> Settings:
    chosen = {name: value for name, value in vars(options).items() if value is not None}
    own = {name: chosen[name] for name in Settings.__dataclass_fields__ if name in chosen}
    if "ranks" in own:
        own["ranks"] = tuple(sorted(set(own["ranks"])))
    return Settings(**((QUICK if options.quick else {}) | own))


def _parser() -> argparse.ArgumentParser:
    default = Settings()
    parser = argparse.ArgumentParser(
        prog="python -m bench.experiments.charnet", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="two ranks and little training, about a minute")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of fonts of your own")
    parser.add_argument("--ranks", nargs="+", type=int, metavar="R", help=" ".join(map(str, default.ranks)))
    parser.add_argument("--epochs", type=int, help=f"of training ({default.epochs})")
    parser.add_argument("--steps", type=int, help=f"of each fine-tuning ({default.steps})")
    parser.add_argument("--seed", type=int, help=f"of training ({default.seed})")
    parser.add_argument("--threads", type=int, help=f"default: {default.threads}")
    parser.add_argument("--batch", type=int, help=f"images whose time is taken ({default.batch})")
    parser.add_argument(
        "--seconds", type=float, help=f"time of a layer and of the network ({default.seconds:g})"
    )
    parser.add_argument("--shrink", type=int, help="divide the channels, for a quick look")
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="DIR")
    return parser


if __name__ == "__main__":
    sys.exit(main())
