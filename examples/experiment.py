"""The demo's measurements: what replacing convolutions by CP layers costs and brings, by layer and rank.

All fits and accuracies come before all timing, so that nothing is timed beside other work.
"""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor, nn

from cnnkern import CPConv2d
from examples.datasets import Split
from examples.fitting import fit_layers
from examples.measuring import WHOLE, Time, best_times, check_layer, layer_inputs
from examples.networks import SqueezeNet
from examples.recipes import RECIPES
from examples.replacing import approximation_error, parameter_count, replaced, stock_form
from examples.training import evaluate

FASHION_LAYERS = ("conv2", "conv3")
FASHION_BATCHES = (1, 64)
# Not the first convolution: with 3 input channels a CP layer that is a good approximation saves nothing.
SQUEEZENET_LAYERS = tuple(f"fire{index}.expand3x3" for index in range(2, 10))
SQUEEZENET_BATCHES = (1, 16)
# SqueezeNet's ranks: those at which a CP layer has this many times fewer weights than the dense one.
SQUEEZENET_SAVINGS = (8, 4, 2)

Step = Callable[..., AbstractContextManager[Callable[[float], None]]]
"""(name, units=1) opens a step of the demo: its progress bar names it, and counts it ``units`` times.

It gives what moves the bar on by a share of the step while it lasts."""


@dataclass
class Row:
    """One replacement: a layer at a rank, or the whole network with all its layers at that rank.

    ``label`` says the rank, or what it was chosen by where layers differ; the whole network has no ``rank``.
    ``error`` is relative (Frobenius), ``accuracy`` that of the network with only this replacement and no
    fine-tuning; either is None where it is not measured. ``finetuned`` is the whole network's accuracy after
    fine-tuning, by recipe; ``times``: {batch: {"dense", "four", "cnnkern"}}.
    """

    what: str
    shape: str
    label: str
    rank: int | None
    dense_parameters: int
    parameters: int
    error: float | None = None
    accuracy: float | None = None
    finetuned: dict[str, float] = field(default_factory=dict)
    fit_seconds: float | None = None
    times: dict[int, dict[str, Time]] = field(default_factory=dict)


@dataclass
class Study:
    """One network, the layers that are replaced in it, ``layers[name][label]``, and the rows about them."""

    network: nn.Module
    layers: dict[str, dict[str, CPConv2d]]
    rows: dict[tuple[str, str], Row]
    accuracy: float | None = None

    @property
    def labels(self) -> list[str]:
        return list(next(iter(self.layers.values())))

    def with_layers(self, names: Iterable[str], label: str) -> nn.Module:
        """The network with the layers ``names`` replaced."""
        return replaced(self.network, {name: self.layers[name][label] for name in names}).eval()


def fit(
    network: nn.Module, ranks: Mapping[str, Mapping[str, int]], x: Tensor, pool: Executor, step: Step
) -> Study:
    """Fits every layer in ``ranks`` ({layer: {label: rank}}), and holds the fused layers to their oracle.

    ``x`` is an input of the network, from which the shapes of the maps are read.
    """
    inputs = layer_inputs(network, list(ranks), x)
    jobs = {
        (name, label): (network.get_submodule(name), rank)
        for name, labels in ranks.items()
        for label, rank in labels.items()
    }
    fitted = {}
    for (name, label), layer, seconds in fit_layers(pool, jobs):
        with step(f"fit {name}, R={layer.rank}"):
            check_layer(layer, inputs[name])
            fitted[name, label] = layer, seconds
    layers = {name: {label: fitted[name, label][0] for label in labels} for name, labels in ranks.items()}
    study = Study(network, layers, {})
    for (name, label), (conv, rank) in jobs.items():
        layer, seconds = fitted[name, label]
        study.rows[name, label] = Row(
            name,
            _shape(conv, inputs[name]),
            label,
            rank,
            parameter_count(conv),
            parameter_count(layer),
            error=approximation_error(layer, conv),
            fit_seconds=seconds,
        )
    for label in study.labels:
        whole = study.with_layers(ranks, label)
        sizes = parameter_count(network), parameter_count(whole)
        study.rows[WHOLE, label] = Row(WHOLE, " + ".join(ranks), label, None, *sizes)
    return study


def measure_accuracy(study: Study, test: Split, step: Step) -> None:
    """The accuracy on ``test`` of the original network, and of each replacement before any fine-tuning."""
    with step("accuracy of the original"):
        study.accuracy = evaluate(study.network, test)
    for (what, label), row in study.rows.items():
        with step(f"accuracy, {what} at R={label}"):
            names = study.layers if what == WHOLE else [what]
            row.accuracy = evaluate(study.with_layers(names, label), test)


def measure_finetuning(
    study: Study, training: Split, test: Split, steps: int, step: Step, units: int
) -> None:
    """The accuracy on ``test`` of the whole network after ``steps`` batches of ``training``, by recipe."""
    for label in study.labels:
        layers = {name: by_label[label] for name, by_label in study.layers.items()}
        for name, recipe in RECIPES.items():
            with step(f"fine-tune {name}, R={label}", units) as advance:
                network = recipe(
                    study.network,
                    layers,
                    training,
                    steps,
                    description=None,
                    after_step=partial(advance, 1 / steps),
                )
                study.rows[WHOLE, label].finetuned[name] = evaluate(network, test)


def measure_layers(study: Study, x: Tensor, seconds: float, step: Step) -> None:
    """The time of each layer on the maps it gets when the network computes ``x``."""
    inputs = layer_inputs(study.network, list(study.layers), x)
    for name, by_label in study.layers.items():
        with step(f"time {name}, batch {len(x)}"):
            modules: dict[tuple[str, str], nn.Module] = {("dense", ""): study.network.get_submodule(name)}
            for label, layer in by_label.items():
                modules["four", label] = layer.to_stock().eval()
                modules["cnnkern", label] = layer
            _record(study, name, len(x), best_times(modules, inputs[name], seconds))


def measure_network(study: Study, x: Tensor, seconds: float, step: Step) -> None:
    """The time of the whole network on ``x``, with all the layers of the study replaced."""
    with step(f"time the network, batch {len(x)}"):
        modules: dict[tuple[str, str], nn.Module] = {("dense", ""): study.network}
        for label in study.labels:
            ours = study.with_layers(study.layers, label)
            modules["cnnkern", label] = ours
            modules["four", label] = stock_form(ours)
        _record(study, WHOLE, len(x), best_times(modules, x, seconds))


def fashion_ranks(ranks: Iterable[int]) -> dict[str, dict[str, int]]:
    """{layer: {label: rank}} with the same ranks for both layers."""
    return {name: {str(rank): rank for rank in ranks} for name in FASHION_LAYERS}


def squeezenet_ranks(network: SqueezeNet) -> dict[str, dict[str, int]]:
    """{layer: {label: rank}} for the 3x3 convolutions of SqueezeNet's blocks; ranks are multiples of 4."""
    ranks: dict[str, dict[str, int]] = {}
    for name in SQUEEZENET_LAYERS:
        weight = network.get_submodule(name).weight
        exact = {saving: weight.numel() / sum(weight.shape) / saving for saving in SQUEEZENET_SAVINGS}
        ranks[name] = {f"1/{saving}": max(4, 4 * round(rank / 4)) for saving, rank in exact.items()}
    return ranks


def _record(study: Study, what: str, batch: int, times: Mapping[tuple[str, str], Time]) -> None:
    for label in study.labels:
        study.rows[what, label].times[batch] = {
            "dense": times["dense", ""],
            "four": times["four", label],
            "cnnkern": times["cnnkern", label],
        }


def _shape(conv: nn.Conv2d, x: Tensor) -> str:
    kH, kW = conv.kernel_size
    stride = f", stride {conv.stride[0]}" if conv.stride != (1, 1) else ""
    return f"{conv.in_channels}→{conv.out_channels}, {kH}×{kW} on {x.shape[2]}×{x.shape[3]}{stride}"
