"""Each convolution of a model beside what could take its place: times alone, nothing is fitted.

What `cnnkern.compress` starts with, for those who want to know what there is to gain on a machine.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table
from torch import nn
from tqdm import tqdm

from cnnkern.compression.asked import check_device
from cnnkern.compression.candidates import timed
from cnnkern.compression.inspection import inspect_model
from cnnkern.compression.machine import environment
from cnnkern.compression.methods import Strength
from cnnkern.compression.running import device_of, inference
from cnnkern.text import text_of


@dataclass(frozen=True)
class Rival:
    """What could take a convolution's place, and how many times faster it is."""

    title: str
    method: str
    strength: Strength
    form: str
    seconds: float
    speedup: float


@dataclass(frozen=True)
class Row:
    """One convolution, its own seconds, and its rivals, the strongest approximation of each method last."""

    name: str
    what: str
    seconds: float
    rivals: tuple[Rival, ...]


@dataclass(frozen=True)
class Contest:
    """All convolutions in the order of their calls; left_alone: {name: why}. `print` shows a table."""

    layers: tuple[Row, ...]
    left_alone: dict[str, str]
    environment: dict[str, str | int]

    def to_json(self, *, indent: int | None = 1) -> str:
        """All of it as text."""
        return json.dumps(asdict(self), indent=indent)

    def __str__(self) -> str:
        table = Table(box=box.SIMPLE_HEAD)
        table.add_column("layer", overflow="fold")
        table.add_column("", overflow="fold")
        table.add_column("ms", justify="right")
        table.add_column("times faster", justify="right")
        for row in self.layers:
            table.add_row(escape(row.name or "(model)"), escape(row.what), f"{row.seconds * 1e3:.3g}", "")
            for rival in row.rivals:
                table.add_row("", escape(rival.title), f"{rival.seconds * 1e3:.3g}", f"{rival.speedup:.2f}")
            table.add_section()
        for name, reason in self.left_alone.items():
            table.add_row(escape(name), escape(f"left alone: {reason}"), "", "")
        return text_of(table)


def contest(model: nn.Module, example: Any, methods: Sequence[str], seconds: float) -> Contest:
    """Time every convolution of a model, and what could take its place, on its input in a run on the example.

    Args:
        model, example: as `cnnkern.compress` takes them. methods: its names.
        seconds: of timing for each layer.
    """
    check_device(device := device_of(model, example))
    inspection = inspect_model(model, example)
    rows = []
    with inference(model):
        for place in tqdm(inspection.places, desc="timing", unit="layer", leave=False, disable=None):
            own, candidates = timed(place, methods, seconds)
            rivals = tuple(
                Rival(each.title, each.method, each.strength, each.form, each.seconds, own / each.seconds)
                for each in candidates
            )
            rows.append(Row(place.name, f"{place.conv} on {tuple(place.x.shape)}", own, rivals))
    return Contest(tuple(rows), inspection.left_alone, environment(device))
