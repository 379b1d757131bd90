"""The report as one HTML page: what became of the network, the front of plans, each layer's curve."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from cnnkern.compression.pictures import Points, scatter
from cnnkern.compression.report import LayerReport, Report

STYLE = """body { font-family: sans-serif; margin: 2em; max-width: 70em }
table { border-collapse: collapse; margin: 1em 0 } td, th { padding: 0.2em 0.8em; text-align: left }
th { border-bottom: 1px solid #888 } tr.chosen { font-weight: bold } h2 { margin-top: 2em }"""


def page(report: Report) -> str:
    """A whole HTML document."""
    result = f"{report.speedup:.2f} times faster" if report.changed else "nothing gained: unchanged"
    parts = [
        f"<h1>{escape(report.asked)}: {result}</h1>",
        *(f"<p>{escape(note)}</p>" for note in report.notes),
        _whole(report),
        _front(report),
        *(_layer(layer) for layer in report.layers),
        _left_alone(report),
        _environment(report),
    ]
    head = f'<meta charset="utf-8"><title>cnnkern: {result}</title><style>{STYLE}</style>'
    return f"<!doctype html>\n<html><head>{head}</head><body>\n{chr(10).join(parts)}\n</body></html>\n"


def _whole(report: Report) -> str:
    rows = [
        (
            name, _ms(whole.seconds), whole.prediction, f"{whole.loss:.4g}", str(whole.parameters),
            f"{whole.bytes / 1e6:.2f}",
        )
        for name, whole in (("before", report.before), ("after", report.after))
    ]  # fmt: skip
    return _table(("", "ms", "predicted ms", "loss", "parameters", "MB"), rows)


def _front(report: Report) -> str:
    """Speed-up and loss of the network: plans by the estimate, and what was measured."""
    now = report.before
    estimated = [(now.seconds / option.seconds, option.loss) for option in report.front]
    measured = [(attempt.speedup, max(0.0, attempt.loss - now.loss)) for attempt in report.attempts]
    series = [Points("by the estimate", estimated, joined=True), Points("measured", measured)]
    return "<h2>The network</h2>" + scatter("Best plans", "times faster", "loss added", series)


def _layer(layer: LayerReport) -> str:
    rows, by_method = [], {}
    for tried in layer.tried:
        speedup = layer.seconds / tried.seconds
        rows.append(
            (tried.title, _ms(tried.seconds), f"{speedup:.2f}", _number(tried.error), _number(tried.loss),
             tried.verdict)
        )  # fmt: skip
        if tried.loss is not None:
            by_method.setdefault(tried.method, []).append((speedup, max(0.0, tried.loss)))
    headings = ("candidate", "ms", "times", "error", "loss alone", "")
    text = f"<h2>{escape(layer.name)}</h2><p>{escape(layer.what)}, {_ms(layer.seconds)} ms; "
    text += f"becomes {escape(layer.chosen)}</p>" if layer.chosen else "stays</p>"
    series = [Points(method, sorted(points), joined=True) for method, points in by_method.items()]
    picture = scatter("This layer alone replaced", "times faster", "loss added", series) if series else ""
    return (
        text + picture + _table(headings, rows, bold=[tried.title == layer.chosen for tried in layer.tried])
    )


def _left_alone(report: Report) -> str:
    if not report.left_alone:
        return ""
    return "<h2>Left alone</h2>" + _table(("layer", "why"), list(report.left_alone.items()))


def _environment(report: Report) -> str:
    return "<h2>Measured on</h2>" + _table(("", ""), [(k, str(v)) for k, v in report.environment.items()])


def _table(headings: Iterable[str], rows: Sequence[Sequence[str]], bold: Sequence[bool] = ()) -> str:
    marks = list(bold) or [False] * len(rows)
    lines = ["<table><tr>" + "".join(f"<th>{escape(heading)}</th>" for heading in headings) + "</tr>"]
    for row, mark in zip(rows, marks, strict=True):
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in row)
        lines.append(f"<tr{' class=chosen' if mark else ''}>{cells}</tr>")
    return "\n".join([*lines, "</table>"])


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
