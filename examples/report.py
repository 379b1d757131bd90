"""The demo's results as tables on the terminal."""

import json
from itertools import pairwise
from pathlib import Path

from rich.console import Console
from rich.table import Table

from examples.experiment import Row, Study
from examples.measuring import WHOLE

WIDTH = 106
RESULTS = Path(__file__).parent / "results"


def print_tables(console: Console, title: str, study: Study) -> None:
    """One table per batch size: a section for each layer, and one for the whole network."""
    rows = list(study.rows.values())
    for batch in sorted({batch for row in rows for batch in row.times}):
        heading = f"{title}, batch {batch}"
        if study.accuracy is not None:
            heading += f" (original: {study.accuracy:.2%} accurate)"
        console.print(_table(heading, rows, batch, with_accuracy=study.accuracy is not None))


def print_finetuning(console: Console, title: str, study: Study) -> None:
    """The accuracy with all layers of the study replaced, before and after each way to fine-tune, by rank."""
    whole = [study.rows[WHOLE, label] for label in study.labels]
    table = Table(
        title=f"{title}, all layers replaced: accuracy (original: {study.accuracy:.2%})",
        title_justify="left",
        title_style="bold",
        pad_edge=False,
    )
    recipes = list(whole[0].finetuned)
    for heading in (
        "R",
        "fewer\nweights",
        "before\nfine-tuning",
        *(f"fine-tuned\n{name}" for name in recipes),
    ):
        table.add_column(heading, justify="right")
    for row in whole:
        accuracies = (row.accuracy, *(row.finetuned[name] for name in recipes))
        table.add_row(
            row.label,
            f"{row.dense_parameters / row.parameters:.1f}×",
            *(f"{accuracy:.2%}" for accuracy in accuracies),
        )
    console.print(table)


def _table(title: str, rows: list[Row], batch: int, with_accuracy: bool) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", pad_edge=False)
    table.add_column("layer", no_wrap=True)
    table.add_column("R", justify="right")
    table.add_column("error", justify="right")
    if with_accuracy:
        table.add_column("accuracy", justify="right")
    for heading in (
        "fewer\nweights",
        "dense\nms",
        "4 convs\nms",
        "cnnkern\nms",
        "faster than\ndense",
        "faster than\n4 convs",
    ):
        table.add_column(heading, justify="right")
    for row, following in pairwise([*rows, None]):
        times = row.times[batch]
        dense, four, ours = (times[who].milliseconds for who in ("dense", "four", "cnnkern"))
        quality = ["" if row.error is None else f"{row.error:.3f}"]
        if with_accuracy:
            quality.append("" if row.accuracy is None else f"{row.accuracy:.2%}")
        table.add_row(
            row.what,
            row.label if row.rank is None else str(row.rank),
            *quality,
            f"{row.dense_parameters / row.parameters:.1f}×",
            *(_milliseconds(value) for value in (dense, four, ours)),
            _ratio(dense / ours),
            _ratio(four / ours),
            end_section=following is None or following.what != row.what,
        )
    return table


def _milliseconds(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _ratio(value: float) -> str:
    return f"[{'green' if value >= 1 else 'red'}]{value:.2f}×[/]"


def print_other_methods(console: Console) -> None:
    """What the experiments beside the demo found on the Fashion-MNIST network, from examples/results."""
    pruning, perforation = (
        json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("pruning", "perforation")
    )
    facts, pruned = pruning["environment"], pruning["networks"]["fashion_mnist"]["outcomes"]
    table = Table(
        title=f"The same network by other methods, measured before on {facts['cpu']}, {facts['isa']}, "
        f"threads: {facts['threads']} (here: python -m examples.pruning, python -m examples.perforation)",
        title_justify="left",
        title_style="bold",
        pad_edge=False,
    )
    table.add_column("method", no_wrap=True)
    batches = [f"batch {batch},\nfaster" for batch in pruned[0]["times"]]
    for heading in ("accuracy", *batches):
        table.add_column(heading, justify="right")
    for one in pruned:
        table.add_row(f"columns pruned, density {one['density']:g}", *_outcome_cells(one))
    for one in perforation["outcomes"]:
        if one["pattern"] == "impact":
            table.add_row(f"outputs perforated, rate {one['rate']:g}", *_outcome_cells(one))
    console.print(table)


def _outcome_cells(outcome: dict) -> list[str]:
    times = [by_batch[WHOLE] for by_batch in outcome["times"].values()]
    ratios = [time["dense"]["milliseconds"] / time["cnnkern"]["milliseconds"] for time in times]
    return [f"{outcome['accuracy']:.2%}", *map(_ratio, ratios)]
