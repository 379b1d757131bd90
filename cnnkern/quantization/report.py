"""What became of a model: its layers, how exact each is, and what stays in float32."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from torch import nn

from cnnkern.text import text_of

if TYPE_CHECKING:
    from rich.table import Table


@dataclass
class LayerReport:
    """A layer that is computed with int8.

    `input` and `output` are the types of its activations. `snr` is the power of its output over that of the
    error in it, in dB, with all layers before it quantized too; None where it was not measured.
    """

    name: str
    kind: str
    input: str
    output: str
    snr: float | None = None


@dataclass
class Report:
    """What is computed with int8, and what is not.

    Attributes:
        layers: the int8 layers, in the order of the model.
        floats: {name: why it stays in float32}.
        fallback: why the model could not be traced, so that all layers take and give float32, or None.
    """

    layers: list[LayerReport]
    floats: dict[str, str] = field(default_factory=dict)
    fallback: str | None = None

    def to_json(self) -> str:
        """All of it as JSON: {"layers": [...], "floats": {...}, "fallback": ...}; a ratio without an error is
        null."""
        document = asdict(self)
        for row in document["layers"]:
            row["snr"] = row["snr"] if row["snr"] is not None and math.isfinite(row["snr"]) else None
        return json.dumps(document, ensure_ascii=False)

    def __str__(self) -> str:
        return text_of(self.table())

    def table(self) -> Table:
        """All of it as a table for a terminal."""
        from rich.table import Table

        table = Table(title="int8", title_justify="left", caption=self.fallback, caption_justify="left")
        for heading in ("layer", "kind", "input", "output", "SNR, dB"):
            table.add_column(heading, justify="right" if heading == "SNR, dB" else "left")
        if self.floats:
            table.add_column("why not int8")
        for row in self.layers:
            snr = "" if row.snr is None else f"{row.snr:.1f}"
            table.add_row(row.name, row.kind, row.input, row.output, snr)
        for name, reason in self.floats.items():
            table.add_row(name, "", "float32", "float32", "", reason)
        return table


class Quantized(NamedTuple):
    """An int8 model and the report about it."""

    model: nn.Module
    report: Report
