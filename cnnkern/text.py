"""What `print` shows of things that a rich console would show in colour."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

WIDTH = 120


def text_of(what: RenderableType, width: int = WIDTH) -> str:
    """Plain lines of at most `width` characters."""
    from rich.console import Console

    text = io.StringIO()
    Console(file=text, width=width, highlight=False).print(what)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())
