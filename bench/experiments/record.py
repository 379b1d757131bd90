"""What an experiment leaves behind: tables for whoever watches, the numbers as JSON, and a picture."""

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from bench.report import REPORT_WIDTH
from bench.results import environment, machine_slug
from bench.timing import thread_count
from examples.files import write_json, written_whole
from examples.picture import STYLE

Draw = Callable[[Figure, dict], None]


def record(
    name: str,
    folder: Path,
    document: dict,
    tables: Sequence[Table],
    draw: Draw,
    size: tuple[float, float],
    threads: int,
) -> None:
    """Print the tables, and write NAME-MACHINE.json and NAME-MACHINE.png, each whole or not at all.

    `draw` fills a figure of `size` inches from the document, to which the environment is added. `threads` are
    those that were measured with, the most of them where there were several.
    """
    console = Console()
    console.width = max(console.width, REPORT_WIDTH)
    for table in tables:
        console.print(table)
    with thread_count(threads):
        document = {"environment": environment(), **document}
        stem = f"{name}-{machine_slug()}"
    write_json(folder / f"{stem}.json", document)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure, document)
        with written_whole(folder / f"{stem}.png") as temporary:
            figure.savefig(temporary, dpi=150)


def table_of(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table whose first column is of words and the others of numbers."""
    table = Table(title=title, title_justify="left")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    return table
