"""Pictures as SVG text, drawn by hand: a report needs no plotting library and stands in an HTML page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape

# Okabe and Ito's palette: told apart with any colour vision.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8c8c8c")
GREY = "#8c8c8c"
FONT = 'font-family="sans-serif" font-size="13"'


def bars(title: str, shares: Mapping[str, float]) -> str:
    """Horizontal bars, one a name, each with its share (0 to 1) of the whole as a percentage."""
    left, width, line, top = 190, 460, 26, 44
    most = max(shares.values(), default=0) or 1
    parts = [_text(12, 24, title, bold=True)]
    for row, (name, share) in enumerate(shares.items()):
        y, length = top + row * line, max(0.0, share) / most * width
        colour = PALETTE[row % len(PALETTE)]
        parts.append(_text(left - 8, y + 15, name, anchor="end"))
        parts.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{line - 6}" fill="{colour}"/>')
        parts.append(_text(left + length + 6, y + 15, f"{share:.1%}"))
    return _page(left + width + 70, top + len(shares) * line + 12, parts)


@dataclass(frozen=True)
class Points:
    """One series of a scatter plot; `joined` draws lines between its points in their order."""

    name: str
    xy: Sequence[tuple[float, float]]
    joined: bool = False


def scatter(title: str, x_label: str, y_label: str, series: Sequence[Points]) -> str:
    """Points in the plane, axes from 0 to a little above the largest value; only finite ones are shown."""
    left, top, width, height = 80, 44, 480, 260
    series = [replace(each, xy=[xy for xy in each.xy if all(map(math.isfinite, xy))]) for each in series]
    everything = [point for each in series for point in each.xy]
    most_x = 1.05 * max((x for x, _ in everything), default=1) or 1
    most_y = 1.05 * max((y for _, y in everything), default=1) or 1

    def place(x: float, y: float) -> tuple[float, float]:
        return left + width * x / most_x, top + height * (1 - y / most_y)

    parts = [_text(12, 24, title, bold=True), *_axes(left, top, width, height, most_x, most_y)]
    parts.append(_text(left + width / 2, top + height + 40, x_label, anchor="middle"))
    parts.append(f'<g transform="rotate(-90 16 {top + height / 2})">')
    parts.append(_text(16, top + height / 2, y_label, anchor="middle"))
    parts.append("</g>")
    for number, each in enumerate(series):
        colour = PALETTE[number % len(PALETTE)]
        spots = [place(x, y) for x, y in each.xy]
        if each.joined and spots:
            line = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y in spots]
        y = top + 10 + 20 * number
        parts.append(f'<circle cx="{left + width + 20}" cy="{y}" r="4" fill="{colour}"/>')
        parts.append(_text(left + width + 30, y + 4, each.name))
    return _page(left + width + 190, top + height + 56, parts)


def _axes(left: float, top: float, width: float, height: float, most_x: float, most_y: float) -> list[str]:
    """Two axes with five numbers each."""
    parts = [f'<path d="M{left},{top} v{height} h{width}" fill="none" stroke="{GREY}"/>']
    for step in range(5):
        x, y = left + width * step / 4, top + height * (1 - step / 4)
        parts.append(_text(x, top + height + 18, f"{most_x * step / 4:.3g}", anchor="middle"))
        parts.append(_text(left - 6, y + 4, f"{most_y * step / 4:.3g}", anchor="end"))
    return parts


def _text(x: float, y: float, text: str, anchor: str = "start", bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'


def _page(width: float, height: float, parts: Sequence[str]) -> str:
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    background = '<rect width="100%" height="100%" fill="white"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {FONT}>{background}{"".join(parts)}</svg>\n'
