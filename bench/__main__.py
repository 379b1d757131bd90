"""`python -m bench`: the comparison with stock software, as tables and as JSON."""

import argparse
from fnmatch import fnmatch
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench.compare import SUITES, Settings, compare
from bench.layers import LAYERS
from bench.report import REPORT_WIDTH, show
from bench.results import RESULTS, Results, machine_slug

QUICK = {"runs": 1, "seconds": 0.4, "min_rounds": 2, "threads": (torch.get_num_threads(),)}


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    settings = settings_of(options)
    console = Console()
    console.width = max(console.width, REPORT_WIDTH)
    results = _run(settings, console)
    show(results, console)
    for path in _files(options, settings):
        results.write(path)
        console.print(f"[dim]written to {path}[/]")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="one short run on all threads, about two minutes"
    )
    parser.add_argument("--suites", nargs="+", choices=SUITES, help="default: all")
    parser.add_argument("--layers", metavar="PATTERN", default="*", help="layers by name, such as 'ResNet*'")
    parser.add_argument("--batches", nargs="+", type=int, metavar="N", help="default: 1 16")
    parser.add_argument("--threads", nargs="+", type=int, metavar="T", help="default: 1 and all")
    parser.add_argument("--runs", type=int, help="interleaved runs that the medians are taken over (3)")
    parser.add_argument("--seconds", type=float, help="time of one layer in one run (2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the results in FILE too")
    return parser


def settings_of(options: argparse.Namespace) -> Settings:
    chosen = {"layers": tuple(layer for layer in LAYERS if fnmatch(layer.name, options.layers))}
    if not chosen["layers"]:
        raise SystemExit(
            f"no layer matches {options.layers!r}; there are: {', '.join(layer.name for layer in LAYERS)}"
        )
    for name in ("suites", "batches", "threads", "runs", "seconds"):
        value = getattr(options, name)
        if value is not None:
            chosen[name] = tuple(value) if isinstance(value, list) else value
    return Settings(**((QUICK if options.quick else {}) | chosen))


def _run(settings: Settings, console: Console) -> Results:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=settings.steps() + 1)

        def advance(title: str) -> None:
            progress.update(task, description=title, advance=1)
            if not console.is_terminal:  # a log, where no bar moves
                console.print(f"[dim]{title}[/]")

        return compare(settings, advance)


def _files(options: argparse.Namespace, settings: Settings) -> list[Path]:
    """A complete run replaces this machine's file in results/; any other is kept only where --json says."""
    complete = settings == Settings()
    return [path for path in (RESULTS / f"{machine_slug()}.json" if complete else None, options.json) if path]


if __name__ == "__main__":
    main()
