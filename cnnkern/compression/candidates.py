"""What a convolution may become: layers that were timed in its place first, and only then fitted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cnnkern.compression.fits import Fits
from cnnkern.compression.inspection import Place
from cnnkern.compression.methods import Strength, forms, method_named
from cnnkern.compression.refit import refit, relative_error
from cnnkern.compression.running import on_cpu
from cnnkern.compression.timing import Turn, clock_of, interleave

MARGIN = 0.05  # how much less time than the layer's own a candidate has to take


@dataclass
class Candidate:
    """One method at one strength, in the form that is fastest.

    Attributes:
        seconds: measured in the layer's place, on its input.
        in_network: what it takes in the model's own run; None if that was not measured.
        error: ‖candidate(x) − y‖ / ‖y‖ on the calibration's activations, after the refit; None if not fitted.
        loss: of the network with this layer alone replaced, above that of the original; None if not measured.
        verdict: why it was not chosen, or "chosen".
    """

    method: str
    strength: Strength
    form: str
    seconds: float
    in_network: float | None = None
    layer: nn.Module | None = None
    error: float | None = None
    loss: float | None = None
    verdict: str = ""

    def take_time(self, seconds: float, own: float) -> None:
        """Its time, and a verdict where that is not less than the convolution's `own`."""
        self.seconds = seconds
        if not self.joins:
            self.verdict = too_slow(seconds, own)

    @property
    def joins(self) -> bool:
        """Whether it may be faster beside others of its kind, and is to be judged together with them."""
        return self.method == "int8"

    @property
    def title(self) -> str:
        """Such as "cp, rank 32"."""
        label = method_named(self.method).label(self.strength)
        return f"{self.method}, {label}{f' ({self.form})' if self.form else ''}"


@torch.no_grad()
def timed(place: Place, methods: Iterable[str], seconds: float) -> tuple[float, list[Candidate]]:
    """Seconds of the convolution itself, and its candidates with theirs, all timed in turns.

    Each method is timed in all its forms, with weights that are yet to be fitted, and keeps the fastest.
    Those that do not win MARGIN get their verdict here, and are never fitted.
    """
    conv, x, cost = place.conv, place.x, place.cost
    entered: list[tuple[str, Strength, str, nn.Module]] = []
    for name in ("dense", *methods):
        method = method_named(name)
        for strength in method.strengths(conv, cost):
            blank = method.blank or (
                lambda conv, strength, m=method: m.make(conv, strength, cost.output_size, 0)
            )
            for form, layer in forms(blank(conv, strength).eval().to(x.device)).items():
                entered.append((name, strength, form, layer))
    clock = clock_of(x.device)
    turns = [Turn(lambda layer=layer: layer(x), clock) for layer in (conv, *(layer for *_, layer in entered))]
    own, *times = (timing.median for timing in interleave(turns, seconds=seconds)[0])
    strides = conv(x).stride()
    best: dict[tuple[str, Strength], Candidate] = {}
    for (name, strength, form, layer), time in zip(entered, times, strict=True):
        candidate = Candidate(name, strength, form, time)
        if layer(x).stride() != strides:  # such as where weights alone are in channels_last format
            candidate.verdict = (
                "its output is in another memory format, which the layers behind do not expect"
            )
        known = best.get((name, strength))
        if known is None or candidate.seconds < known.seconds:
            best[name, strength] = candidate
    for candidate in best.values():
        if not candidate.verdict:
            candidate.take_time(candidate.seconds, own)
    return own, list(best.values())


def too_slow(time: float, own: float) -> str:
    """The verdict on a time that is not less than the convolution's own by MARGIN; empty for one that is."""
    return "" if time <= (1 - MARGIN) * own else f"not faster: {own / time:.2f} times"


def fitted(
    place: Place, candidate: Candidate, fits: Fits, pairs: Sequence[tuple[Tensor, Tensor]]
) -> tuple[nn.Module, float]:
    """The candidate's layer, refitted to the convolution's own outputs, and its error.

    All on the CPU, where `pairs` are, whatever the model is on.
    """
    made = fits.get(on_cpu(place.conv), candidate.method, candidate.strength, place.cost.output_size)
    layer = forms(made)[candidate.form]
    if not method_named(candidate.method).exact:
        if not pairs:
            raise ValueError("the convolution is not called")
        layer = refit(layer, pairs, fits.seed).layer
    return layer, relative_error(layer, pairs)


def drop_dominated(candidates: Sequence[Candidate]) -> None:
    """A verdict for each candidate that is not faster by MARGIN than a more exact one, but for those that
    join: what is left, from the most exact to the fastest, is worth the time to measure its loss."""
    fastest: Candidate | None = None
    left = [candidate for candidate in candidates if candidate.layer is not None and not candidate.verdict]
    for candidate in sorted(left, key=lambda each: (each.error, each.seconds)):
        if fastest is None or candidate.seconds <= (1 - MARGIN) * fastest.seconds:
            fastest = candidate
        elif not candidate.joins:
            how = "slower" if candidate.seconds >= fastest.seconds else "hardly faster"
            candidate.verdict = f"{how} and less exact than {fastest.title}"
    for candidate in candidates:
        if candidate.verdict:
            candidate.layer = None  # its memory is needed
