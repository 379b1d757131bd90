"""How much of each layer to drop: a greedy choice from measured time and measured loss.

Figurnov et al. 2016, section 3.4: starting with all outputs of all layers, each step raises the rate of one
layer, the one for which the loss added is least for the time that it saves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from cnnkern.modules import convolutions, in_eval_mode

from .conversion import convert

PATIENCE = 3.0  # seconds without a progress bar, unless one was asked for

Masks = Callable[[str, float], Tensor]
Measure = Callable[[nn.Module], float]


@dataclass(frozen=True)
class RateStep:
    """The layer whose rate was raised, and what the whole network's loss and seconds are since."""

    layer: str
    rate: float
    loss: float
    seconds: float


@dataclass(frozen=True)
class RateChoice:
    """The chosen rate of each layer, how it was reached, and the network that has it.

    `loss` and `seconds` are those of the unperforated network, measured in the same way as those of `steps`.
    """

    rates: dict[str, float]
    loss: float
    seconds: float
    steps: tuple[RateStep, ...]
    model: nn.Module

    @property
    def speedup(self) -> float:
        """Of the whole network."""
        return self.seconds / self.steps[-1].seconds if self.steps else 1.0


def choose_rates(
    model: nn.Module,
    layers: Sequence[str] | None = None,
    rates: Iterable[float] = (0.25, 0.5, 0.75),
    *,
    masks: Masks,
    evaluate: Measure,
    measure: Measure,
    speedup: float | None = None,
    max_loss: float | None = None,
    verbose: bool | None = None,
) -> RateChoice:
    """Choose how much of each layer's outputs to drop.

    Each step tries, for every layer, the next rate that saves time, with the others as they are, and takes
    the one of least (loss added) / (seconds saved). Every candidate is a network that is run: with L layers a
    step costs L calls of `evaluate` and at least L + 1 of `measure`. A layer's first rate also puts the
    perforated layer in the place of the stock one, and the seconds count that too.

    Args:
        model: a trained network; it is not changed.
        layers: names of `torch.nn.Conv2d` ("features.3"); all where it is None.
        rates: the rates that a layer can have besides 0.
        masks: (layer, rate) -> bool (oH, oW), such as `lambda layer, rate: impact(scores[layer], rate)`.
        evaluate: network -> loss, the lower the better.
        measure: network -> seconds; `seconds_of(x)` measures a call.
        speedup: stop as soon as the network is so many times faster than at the beginning.
        max_loss: take no step that leads to a greater loss.
        verbose: show progress: True at once, False never, None when it takes long.

    Returns:
        The rates, the steps that led there, and the network, with `cnnkern.PerforatedConv2d` in it.

    Raises:
        ValueError: neither speedup nor max_loss, rates that cannot be, or a name that no convolution has.
    """
    from tqdm import tqdm

    if speedup is None and max_loss is None:
        raise ValueError("speedup, max_loss: expected at least one of the two")
    ladder = [0.0, *_checked_rates(rates)]
    level = dict.fromkeys(convolutions(model, layers), 0)

    def perforated(level: Mapping[str, int]) -> nn.Module:
        return convert(model, {name: masks(name, ladder[i]) for name, i in level.items() if i > 0})

    def asked(function: Measure, network: nn.Module) -> float:
        with torch.no_grad(), in_eval_mode(network):
            return float(function(network))

    def faster(name: str) -> tuple[int, float, nn.Module] | None:
        """The next rate of a layer that saves time, the network's seconds with it, and the network."""
        for i in range(level[name] + 1, len(ladder)):
            candidate = perforated({**level, name: i})
            candidate_seconds = asked(measure, candidate)
            progress.set_postfix_str(f"{first_seconds / seconds:.2f} times faster", refresh=False)
            progress.update()
            if candidate_seconds < seconds:
                return i, candidate_seconds, candidate
        return None

    chosen = perforated(level)
    loss, seconds = first_loss, first_seconds = asked(evaluate, chosen), asked(measure, chosen)
    steps: list[RateStep] = []
    progress = tqdm(
        desc="choosing rates",
        disable=verbose is False,
        delay=0.0 if verbose else PATIENCE,
        leave=bool(verbose),
        unit=" networks",
    )
    with progress:
        while speedup is None or first_seconds / seconds < speedup:
            best: tuple[float, str, int, float, nn.Module] | None = None
            for name in level:
                if (found := faster(name)) is None:
                    continue
                i, new_seconds, candidate = found
                new_loss = asked(evaluate, candidate)
                if max_loss is not None and not new_loss <= max_loss:
                    continue
                price = (new_loss - loss) / (seconds - new_seconds)
                if best is None or price < best[0]:
                    best = price, name, i, new_loss, candidate
            if best is None:
                break
            _, name, i, loss, chosen = best
            level[name] = i
            seconds = asked(measure, chosen)  # anew: what is taken is often what the clock flattered
            steps.append(RateStep(name, ladder[level[name]], loss, seconds))
    rates_found = {name: ladder[i] for name, i in level.items()}
    return RateChoice(rates_found, first_loss, first_seconds, tuple(steps), chosen)


def seconds_of(x: Tensor, calls: int = 9) -> Measure:
    """A function that measures a network's call with `x`: the median of the seconds of `calls` calls.

    On CUDA it waits for the device. On a machine that does other things as well, raise `calls`.
    """

    def measure(model: nn.Module) -> float:
        times = []
        for call in range(calls + 2):
            start = time.perf_counter()
            model(x)
            if x.is_cuda:
                torch.cuda.synchronize(x.device)
            if call >= 2:  # the first ones pack the weights
                times.append(time.perf_counter() - start)
        return median(times)

    return measure


def _checked_rates(rates: Iterable[float]) -> list[float]:
    ladder = sorted(set(rates))
    if not ladder or not 0 < ladder[0] <= ladder[-1] < 1:
        raise ValueError(f"rates: expected numbers between 0 and 1, got {ladder}")
    return ladder
