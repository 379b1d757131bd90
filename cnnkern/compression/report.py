"""What `cnnkern.compress` did and why: as text, as JSON, and as one HTML page (see page.py)."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, field
from typing import Any

from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from cnnkern.compression.files import written_whole
from cnnkern.compression.planner import Option
from cnnkern.text import text_of

CHOSEN = "chosen"


@dataclass(frozen=True)
class Tried:
    """One candidate for one layer: `loss` is what the network loses with this layer alone replaced."""

    title: str
    method: str
    strength: int | float | tuple[int, int] | None
    form: str
    seconds: float
    error: float | None
    loss: float | None
    verdict: str


@dataclass(frozen=True)
class LayerReport:
    """One convolution: its own seconds, what was tried, and the relative error of its output in the end.

    `error` is on the calibration's activations, with all layers before it replaced as well.
    """

    name: str
    what: str
    seconds: float
    tried: tuple[Tried, ...]
    chosen: str | None
    error: float | None


@dataclass(frozen=True)
class Whole:
    """The network: seconds of one run on the example, loss, learned numbers, bytes of its state.

    `predicted_seconds`: what the planner said before it measured this network; None for the original.
    """

    seconds: float
    loss: float
    parameters: int
    bytes: int
    predicted_seconds: float | None = None

    @property
    def prediction(self) -> str:
        """What was predicted, and by how much of the measured time that was wrong."""
        if self.predicted_seconds is None:
            return ""
        return f"{self.predicted_seconds * 1e3:.3g} ({self.predicted_seconds / self.seconds - 1:+.0%})"


@dataclass(frozen=True)
class Attempt:
    """One plan that was built and measured beside the original; `baseline_seconds` is the original's time."""

    predicted_seconds: float
    seconds: float
    baseline_seconds: float
    predicted_loss: float
    loss: float

    @property
    def speedup(self) -> float:
        return self.baseline_seconds / self.seconds


@dataclass(frozen=True)
class Report:
    """All that `cnnkern.compress` found.

    Attributes:
        asked: what was asked for, in words. changed: whether the model is another one now.
        layers: in the order of their calls. left_alone: {name: why}.
        before, after: the same numbers where nothing changed.
        attempts: the plans that were measured. front: the best plans by the estimate, not measured.
        notes: what else there is to know.
        environment: versions, CPU, threads.
    """

    asked: str
    changed: bool
    layers: tuple[LayerReport, ...]
    left_alone: dict[str, str]
    before: Whole
    after: Whole
    attempts: tuple[Attempt, ...]
    front: tuple[Option, ...]
    notes: tuple[str, ...]
    environment: dict[str, str | int] = field(default_factory=dict)

    @property
    def speedup(self) -> float:
        """Times faster than the original, both measured in turns."""
        return self.before.seconds / self.after.seconds

    def to_dict(self) -> dict:
        """All of it as JSON has it."""
        return {**asdict(self), "speedup": self.speedup}

    def to_json(self, *, indent: int | None = 1) -> str:
        """`to_dict` as text; numbers that are not finite, which JSON does not have, are null."""
        return json.dumps(_finite(self.to_dict()), indent=indent, allow_nan=False)

    def save_html(self, path: str | os.PathLike) -> None:
        """Write one HTML page with tables and pictures, whole or not at all."""
        from cnnkern.compression.page import page  # which reads this module

        with written_whole(path) as temporary:
            temporary.write_text(page(self), encoding="utf-8")

    def __rich__(self) -> Group:
        notes = [f"[yellow]{escape(note)}[/]" for note in self.notes]
        return Group(self._whole_table(), self._layer_table(), *notes)

    def __str__(self) -> str:
        return text_of(self.__rich__())

    def _whole_table(self) -> Table:
        title = f"{escape(self.asked)}: {'' if self.changed else 'nothing gained, the model is unchanged; '}"
        title += f"{self.speedup:.2f} times faster"
        table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
        table.add_column("")
        for heading in ("ms", "predicted ms", "loss", "parameters", "MB"):
            table.add_column(heading, justify="right")
        for name, whole in (("before", self.before), ("after", self.after)):
            numbers = (
                f"{whole.seconds * 1e3:.3g}", whole.prediction, f"{whole.loss:.4g}", str(whole.parameters),
            )  # fmt: skip
            table.add_row(name, *numbers, f"{whole.bytes / 1e6:.2f}")
        return table

    def _layer_table(self) -> Table:
        table = Table(box=box.SIMPLE_HEAD)
        for heading, justify in (
            ("layer", "left"), ("ms", "right"), ("becomes", "left"), ("ms", "right"), ("times", "right"),
            ("error", "right"), ("loss alone", "right"), ("others", "left"),
        ):  # fmt: skip
            table.add_column(heading, justify=justify, overflow="fold")
        for layer in self.layers:
            chosen = next((tried for tried in layer.tried if tried.verdict == CHOSEN), None)
            own = f"{layer.seconds * 1e3:.3g}"
            if chosen is None:
                table.add_row(layer.name, own, "stays", "", "", "", "", _others(layer))
                continue
            table.add_row(
                layer.name,
                own,
                chosen.title,
                f"{chosen.seconds * 1e3:.3g}",
                f"{layer.seconds / chosen.seconds:.2f}",
                "" if layer.error is None else f"{layer.error:.3g}",
                "" if chosen.loss is None else f"{chosen.loss:.3g}",
                _others(layer),
            )
        for name, reason in self.left_alone.items():
            table.add_row(name, "", "left alone", "", "", "", "", escape(reason))
        return table


def _finite(value: Any) -> Any:
    """A nest of dicts and sequences with None in place of numbers that are not finite."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _others(layer: LayerReport) -> str:
    """How many candidates were not chosen, and for how many of those why."""
    kinds: dict[str, int] = {}
    for tried in layer.tried:
        if tried.verdict != CHOSEN:
            kind = tried.verdict.partition(":")[0].partition(" than ")[0]
            kinds[kind] = kinds.get(kind, 0) + 1
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items())
