"""`cnnkern.compress`: a trained model in, a faster one out, by measured time and measured loss."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from cnnkern.compression.asked import batches_of, check_asked, check_device, check_loss, copied
from cnnkern.compression.bonds import Savings, measure_savings, take_savings
from cnnkern.compression.candidates import MARGIN
from cnnkern.compression.cost import tensors
from cnnkern.compression.fits import Fits
from cnnkern.compression.inspection import inspect_model
from cnnkern.compression.int8 import trainable
from cnnkern.compression.linking import is_seen, link
from cnnkern.compression.losses import (
    Divergence,
    Evaluate,
    checked,
    parameter_count,
    same_outputs,
    state_bytes,
)
from cnnkern.compression.machine import environment
from cnnkern.compression.methods import DEFAULT_METHODS
from cnnkern.compression.planner import Option
from cnnkern.compression.planning import Built, Planner
from cnnkern.compression.processes import together
from cnnkern.compression.profiling import profile
from cnnkern.compression.report import CHOSEN, Attempt, LayerReport, Report, Tried, Whole
from cnnkern.compression.running import (
    call,
    check_model,
    device_of,
    in_format,
    inference,
    model_in_format,
    timed_together,
)
from cnnkern.compression.search import Layer, search
from cnnkern.compression.timing import Turn, clock_of, interleave
from cnnkern.folding import UntraceableError, fold_batch_norm
from cnnkern.modules import unwrapped
from cnnkern.nn import Int8Conv2d, PerforatedConv2d

FRONT_STEPS = 16
NAMED = 5  # batch norms of which a note tells the names

Finetune = Callable[[nn.Module, nn.Module], None]


class Compressed(NamedTuple):
    """What `cnnkern.compress` returns."""

    model: nn.Module
    report: Report


def compress(
    model: nn.Module,
    example_input: Any,
    *,
    target_speedup: float | None = None,
    max_loss_increase: float | None = None,
    calibration: Iterable[Any] | None = None,
    evaluate: Evaluate | None = None,
    methods: Sequence[str] = DEFAULT_METHODS,
    finetune: Finetune | None = None,
    seed: int = 0,
    cache: str | os.PathLike | None = None,
    seconds: float = 1.0,
) -> Compressed:
    """Replace the convolutions of a trained model by faster layers, each chosen by measured time and loss.

    Batch norms are folded first, where that is exact. Every candidate is timed in the layer's place, on its
    input, with the threads that torch uses; one that is not faster by five percent is never used. Those that
    are faster are fitted, refitted to the calibration's activations, and tried in the network one by one. An
    integer program then picks one for each layer; the network is built, layer after layer, each fitted to
    what the layers before it give; it is measured in turns with the original, and the plan repaired by what
    was measured.

    Args:
        model: on the CPU or a CUDA device; it is not changed.
        example_input: what the compressed model is to be fast on: a tensor (N, C, H, W), or a tuple of
            positional or a mapping of keyword arguments; in the batch size and memory format that matter.
        target_speedup: how many times faster the whole model is to be, above 1; or
        max_loss_increase: how much it may lose, as `evaluate` has it.
        calibration: batches like `example_input`, of inputs like those to come; tens of images, since all of
            a layer's activations are held at once. The example alone, if None.
        evaluate: a function of a model that returns its loss, lower is better, such as 1 − accuracy; called
            in eval mode, often. If None, how far the outputs on the calibration are from the original's:
            Σ‖f(x) − f₀(x)‖² / Σ‖f₀(x)‖².
        methods: of "cp", "spatial_svd", "tucker2", "column_sparse", "perforated", and "int8". "perforated" is
            for images of the example's size alone from then on. "int8": 8-bit weights and activations in a
            layer that takes and gives float32, or hands its integers to the next one where only ReLUs, max
            pooling and concatenations stand between; what that saves is measured in the network, and planned
            with. On request also "biclustered". Our dense layer, which loses nothing, is always tried.
        finetune: trains the compressed model in place: finetune(model, original), such as
            `cnnkern.compression.Distill`. Int8 layers are real ones on their grids meanwhile. It is kept only
            where the loss does not rise by it.
        seed: of fits and of what is drawn.
        cache: a folder where finished fits are kept; a search that was interrupted goes on from there.
        seconds: of timing, for each layer and for each network.

    Returns:
        (model, report): a new model in eval mode, for `torch.no_grad()` where it has int8 layers; the old one
        where nothing is gained by five percent.

    Raises:
        TypeError, ValueError: an argument that cannot be; the message names it.
        NotImplementedError: a model on another device than these, or than cnnkern was built for.

    Convolutions that are called several times or not at all, share their weight, or are frozen beside others
    that are not, are left alone, as are functional ones; the report says which and why.

    Where `torch.distributed` is initialized, as under `torchrun`, all its processes call this with the same
    arguments and get the same network. The first one times, while the others wait; fits and the losses of
    single layers are dealt out to all of them, so `evaluate` must do without the others; `finetune` is called
    in each.
    """
    check_model(model)
    functions = {"evaluate": evaluate, "finetune": finetune}
    check_asked(target_speedup, max_loss_increase, methods, seconds, functions, seed)
    check_device(device := device_of(model, example_input))
    original = copied(unwrapped(model)).eval()
    batches = batches_of(original, example_input, calibration)
    fits = Fits(cache, seed)
    folded, not_folded = _folded(original, example_input)
    inspection = inspect_model(folded, example_input)
    diverges = evaluate is None
    if evaluate is None:
        evaluate = Divergence(original, batches)
    with together() as processes:
        first = processes.first
        loss = first(lambda: checked(evaluate, original))
        check_loss(loss, diverges)
        profiled = first(lambda: profile(folded, example_input, seconds=seconds))
        whole, now = profiled.seconds, profiled.seconds
        if folded is not original:
            whole, now = first(lambda: timed_together([original, folded], example_input, seconds))
        # as shares, since the machine may have been slower then
        in_network = {each.name: each.seconds / profiled.seconds * now for each in profiled.layers}
        layers = search(
            folded,
            example_input,
            inspection.places,
            methods,
            batches,
            evaluate,
            loss,
            fits,
            seconds,
            in_network,
            processes,
        )
        hides = processes.hides_progress
        savings, join = Savings({}, []), _as_it_is
        if is_seen(folded, example_input):
            join = link
            savings = first(
                lambda: measure_savings(folded, layers, example_input, seconds, hides_progress=hides)
            )
        bonds = take_savings(layers, savings)
        planner = Planner(
            *(original, whole, folded, now, example_input, layers, bonds, join),
            *(batches, evaluate, loss, seconds, seed),
        )
        planner.take(*first(planner.measure))
        built, attempts = first(lambda: _planned(planner, target_speedup, max_loss_increase))
        notes = [
            *_shortfall(built, target_speedup),
            *_handed_on(planner, built),
            *_limits(built),
            *not_folded,
            *first(lambda: _other_layout(original, example_input, seconds)),
        ]
        before = after = _whole(original, whole if built is None else built.attempt.baseline_seconds, loss)
        if built is not None:
            model = planner.with_layers(built.layers)
            lost = built.attempt.loss
            if finetune is not None:
                model, lost, said = _finetuned(
                    model, lost, original, finetune, lambda each: first(lambda: checked(evaluate, join(each)))
                )
                notes.append(said)
            model = join(model)
            after = _whole(model, built.attempt.seconds, lost, built.attempt.predicted_seconds)
    report = Report(
        asked=_asked(target_speedup, max_loss_increase),
        changed=built is not None,
        layers=tuple(_layer_report(layer, index, built) for index, layer in enumerate(layers)),
        left_alone=inspection.left_alone,
        before=before,
        after=after,
        attempts=attempts,
        front=tuple(_front(planner, now)),
        notes=tuple(notes),
        environment=environment(device),
    )
    return Compressed(model, report)


def _as_it_is(model: nn.Module) -> nn.Module:
    return model


def _planned(
    planner: Planner, target: float | None, most: float | None
) -> tuple[Built | None, tuple[Attempt, ...]]:
    """The best plan, if it is faster than the original, and all that was measured on the way."""
    built = planner.for_loss(most) if target is None else planner.for_speedup(target)
    if built is not None and built.attempt.speedup < 1 / (1 - MARGIN):
        built = None
    return built, tuple(each.attempt for each in planner.tried)


def _asked(target: float | None, most: float | None) -> str:
    return f"at most {most:g} more loss" if target is None else f"{target:g} times the speed"


def _shortfall(built: Built | None, target: float | None) -> list[str]:
    """A note where the result is not what was asked for."""
    if built is None:
        return ["No plan was faster by five percent and within what was asked for: the model is unchanged."]
    if target is not None and built.attempt.speedup < target:
        return [f"No plan reaches {target:g} times the speed; this is the fastest one that was found."]
    return []


def _handed_on(planner: Planner, built: Built | None) -> list[str]:
    """A note on the layers that pass integers on."""
    if built is None:
        return []
    kept = [bond for bond in planner.choices.kept(built.plan) if bond in planner.bonds]
    if not kept:
        return []
    groups = [" and ".join(planner.layers[index].place.name for index in bond.options) for bond in kept]
    saved = sum(bond.seconds for bond in kept)
    return [f"Integers pass between {', between '.join(groups)}: {saved * 1e3:.3g} ms less."]


def _limits(built: Built | None) -> list[str]:
    """Notes on what the network cannot do any more."""
    kinds = set() if built is None else {type(layer) for layer in built.layers.values()}
    said = {
        PerforatedConv2d: "Perforated layers have masks for the size of the example; other sizes are refused",
        Int8Conv2d: "Int8 layers have no gradient: run the model under torch.no_grad()",
    }
    return [f"{note}." for kind, note in said.items() if kind in kinds]


def _other_layout(original: nn.Module, example: Any, seconds: float) -> list[str]:
    """A note where the original would be faster in the other one of the two memory formats."""
    images = [x for x in tensors(example) if x.dim() == 4]
    if not images:
        return []
    # by strides, since images of one channel are contiguous in both
    last = all(x.stride(1) == 1 for x in images)
    other = torch.contiguous_format if last else torch.channels_last
    moved, x = model_in_format(copy.deepcopy(original), other), in_format(example, other)
    clock = clock_of(device_of(original, example))
    turns = [Turn(lambda: call(original, example), clock), Turn(lambda: call(moved, x), clock)]
    with inference(original), inference(moved):
        (here, there), _ = interleave(turns, seconds=seconds)
    if there.median > (1 - MARGIN) * here.median:
        return []
    ratio = here.median / there.median
    return [
        f"The original is {ratio:.2f} times as fast with inputs and weights in {other}; ours may be "
        "faster there too: give the model and its example in that format."
    ]


def _finetuned(
    model: nn.Module, loss: float, original: nn.Module, finetune: Finetune, evaluate: Evaluate
) -> tuple[nn.Module, float, str]:
    """The better one of the model and of a copy that was fine-tuned, its loss, and what to say about it."""
    trained = copy.deepcopy(model)
    with trainable(trained) as network:
        finetune(network, original)
    reached = evaluate(trained.eval())
    said = f"Fine-tuning changed the loss from {loss:.4g} to {reached:.4g}"
    if reached > loss:
        return model, loss, f"{said}; the network is as it was before."
    return trained, reached, f"{said}."


def _layer_report(layer: Layer, index: int, built: Built | None) -> LayerReport:
    choice = 0 if built is None else built.plan[index]
    chosen = layer.usable[choice - 1] if choice else None
    tried = []
    for each in layer.candidates:
        verdict = CHOSEN if each is chosen else each.verdict or "not in the best plan"
        tried.append(
            Tried(
                each.title,
                each.method,
                each.strength,
                each.form,
                each.seconds,
                each.error,
                each.loss,
                verdict,
            )
        )
    return LayerReport(
        name=layer.place.name,
        what=f"{layer.place.conv} on {tuple(layer.place.x.shape)}",
        seconds=layer.seconds,
        tried=tuple(tried),
        chosen=None if chosen is None else chosen.title,
        error=None if chosen is None else built.errors.get(layer.place.name),
    )


def _folded(original: nn.Module, example: Any) -> tuple[nn.Module, list[str]]:
    """A copy with batch norms folded, or the model itself where none can be; a note where that is not told
    by the model's structure."""
    if not _batch_norms(original):
        return original, []
    try:
        folded = fold_batch_norm(original)
    except UntraceableError as error:
        return original, [f"Batch norms are not folded: {error}"]
    left = _batch_norms(folded)
    named = ", ".join([*left[:NAMED], "..."] if len(left) > NAMED else left)
    notes = [f"Batch norms that no convolution before them can take in: {named}."] if left else []
    if len(left) == len(_batch_norms(original)):
        return original, notes
    # such as where an argument that is not given, and None, decides what is called
    if not same_outputs(original, folded, example):
        return original, ["Batch norms are not folded: with them folded, the example has other outputs."]
    return folded, notes


def _batch_norms(model: nn.Module) -> list[str]:
    """Their names, of all kinds."""
    return [name for name, module in model.named_modules() if isinstance(module, _BatchNorm)]


def _front(planner: Planner, whole: float) -> list[Option]:
    """The best plans by the estimate, as seconds of the whole network and loss added."""
    points = planner.choices.front(FRONT_STEPS)
    return [Option(whole - (planner.own - point.seconds) * planner.factor, point.loss) for point in points]


def _whole(model: nn.Module, seconds: float, loss: float, predicted: float | None = None) -> Whole:
    return Whole(seconds, loss, parameter_count(model), state_bytes(model), predicted)
