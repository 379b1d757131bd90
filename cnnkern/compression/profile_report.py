"""What a profile says: a table, JSON, and a picture."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass

from rich import box
from rich.table import Table

from cnnkern.compression.files import written_whole
from cnnkern.compression.pictures import bars
from cnnkern.compression.timing import Timing
from cnnkern.text import text_of

TABLE_WIDTH = 128
OUTSIDE = "outside of layers"


@dataclass(frozen=True)
class LayerProfile:
    """One leaf module over one run of the model.

    Attributes:
        name: its first name in the model. kind: its type.
        calls: how often a run calls it; times, FLOPs and bytes are those of all of them.
        seconds, deviation: median over the rounds, and median absolute deviation from it.
        flops: two a multiply-add. bytes: inputs, weights and outputs, once each.
        parameters: how many numbers it learns.
        input_shape, output_shape: of its first call; None where there is no tensor.
    """

    name: str
    kind: str
    calls: int
    seconds: float
    deviation: float
    flops: int
    bytes: int
    parameters: int
    input_shape: tuple[int, ...] | None
    output_shape: tuple[int, ...] | None


@dataclass(frozen=True)
class Profile:
    """What `cnnkern.profile` measured; `print` shows it as a table.

    Attributes:
        layers: in the order of their first call.
        whole: the model's own run, without anything measured inside of it.
        parameters: of the model, each once.
        peak_gflops, bandwidth_gbs: of this machine, measured beside it on `threads` threads; None on a GPU.
        mark_seconds: what measuring adds to each call of a layer; it was taken off.
    """

    layers: tuple[LayerProfile, ...]
    whole: Timing
    parameters: int
    input_shape: tuple[int, ...] | None
    device: str
    isa: str | None
    threads: int
    torch: str
    cnnkern: str
    peak_gflops: float | None
    bandwidth_gbs: float | None
    mark_seconds: float

    @property
    def seconds(self) -> float:
        """Of one run of the whole model."""
        return self.whole.median

    @property
    def flops(self) -> int:
        return sum(layer.flops for layer in self.layers)

    @property
    def bytes(self) -> int:
        return sum(layer.bytes for layer in self.layers)

    @property
    def outside_seconds(self) -> float:
        """What no layer accounts for: functional operations and the model's own Python."""
        return max(0.0, self.seconds - sum(layer.seconds for layer in self.layers))

    def share_of_peak(self, layer: LayerProfile) -> float | None:
        """Of the measured peak of FMA; None where there is no peak or nothing to compute."""
        if self.peak_gflops is None or not layer.flops or not layer.seconds:
            return None
        return layer.flops / layer.seconds / 1e9 / self.peak_gflops

    def by_kind(self) -> dict[str, float]:
        """Seconds by type of layer, the largest first, and those outside of layers last."""
        sums: dict[str, float] = {}
        for layer in self.layers:
            sums[layer.kind] = sums.get(layer.kind, 0.0) + layer.seconds
        ordered = sorted(sums.items(), key=lambda item: -item[1])
        return {**dict(ordered), OUTSIDE: self.outside_seconds}

    def to_dict(self) -> dict:
        """All of it as JSON has it, with the shares that the table shows."""
        layers = [asdict(layer) | {"share_of_peak": self.share_of_peak(layer)} for layer in self.layers]
        totals = {
            "seconds": self.seconds,
            "outside_seconds": self.outside_seconds,
            "flops": self.flops,
            "bytes": self.bytes,
            "parameters": self.parameters,
        }
        machine = ("device", "isa", "threads", "torch", "cnnkern", "peak_gflops", "bandwidth_gbs")
        return {
            "environment": {name: getattr(self, name) for name in machine},
            "input_shape": self.input_shape,
            "rounds": self.whole.rounds,
            "deviation": self.whole.deviation,
            "mark_seconds": self.mark_seconds,
            "totals": totals,
            "by_kind": self.by_kind(),
            "layers": layers,
        }

    def to_json(self, *, indent: int | None = 1) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=indent)

    def picture(self) -> str:
        """The share of time by type of layer, as an SVG document."""
        sums = self.by_kind()
        whole = sum(sums.values()) or 1.0
        shares = {kind: seconds / whole for kind, seconds in sums.items()}
        return bars(f"Share of {_milliseconds(self.seconds)} ms by type of layer", shares)

    def save_picture(self, path: str | os.PathLike) -> None:
        """Write `picture` to a file, whole or not at all."""
        with written_whole(path) as temporary:
            temporary.write_text(self.picture(), encoding="utf-8")

    def table(self) -> Table:
        """For a rich console."""
        table = Table(box=box.SIMPLE_HEAD, title=self._title(), title_justify="left", title_style="bold")
        for heading in ("layer", "type", "output"):
            table.add_column(heading, overflow="fold")
        for heading in ("ms", "%", "MFLOP", "GFLOP/s", "% of peak", "MB", "parameters"):
            table.add_column(heading, justify="right", no_wrap=True)
        for layer in self.layers:
            table.add_row(*self._cells(layer))
        table.add_row(OUTSIDE, "", "", *self._time_cells(self.outside_seconds), "", "", "", "", "")
        table.add_section()
        rate = self.flops / self.seconds / 1e9
        share = f"{rate / self.peak_gflops:.0%}" if self.peak_gflops else ""
        table.add_row(
            "total", "", "", *self._time_cells(self.seconds), f"{self.flops / 1e6:.1f}", f"{rate:.1f}", share,
            f"{self.bytes / 1e6:.1f}", str(self.parameters), style="bold",
        )  # fmt: skip
        return table

    def __str__(self) -> str:
        return text_of(self.table(), TABLE_WIDTH)

    def _title(self) -> str:
        where = f"{self.device}, {self.isa}, threads: {self.threads}" if self.isa else self.device
        title = f"{where}; input {self.input_shape}, median of {self.whole.rounds} runs"
        if self.peak_gflops is None:
            return title
        return f"{title}\nmeasured beside it: {self.peak_gflops:.0f} GFLOP/s, {self.bandwidth_gbs:.0f} GB/s"

    def _cells(self, layer: LayerProfile) -> list[str]:
        share = self.share_of_peak(layer)
        computes = layer.flops > 0 and layer.seconds > 0
        return [
            f"{layer.name or '(model)'}{f' ×{layer.calls}' if layer.calls > 1 else ''}",
            layer.kind,
            "×".join(map(str, layer.output_shape or ())),
            *self._time_cells(layer.seconds),
            f"{layer.flops / 1e6:.1f}" if layer.flops else "",
            f"{layer.flops / layer.seconds / 1e9:.1f}" if computes else "",
            "" if share is None else f"{share:.0%}",
            f"{layer.bytes / 1e6:.2f}",
            str(layer.parameters) if layer.parameters else "",
        ]

    def _time_cells(self, seconds: float) -> tuple[str, str]:
        return _milliseconds(seconds), f"{seconds / self.seconds:.1%}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}"
