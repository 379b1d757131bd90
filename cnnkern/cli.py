"""The command line: `python -m cnnkern info`, also installed as `cnnkern`."""

import argparse
import json
import platform
import sys
from collections.abc import Sequence

import torch

import cnnkern


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the process's exit status; errors go to stderr as one line."""
    options = parser().parse_args(arguments)
    try:
        options.run(options)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        print(f"cnnkern: error: {error}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line, for those who run it and those who check what documents show."""
    parser = argparse.ArgumentParser(prog="cnnkern", description=cnnkern.__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=f"cnnkern {cnnkern.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    info = commands.add_parser("info", help="what was built, what this machine has, and how fast it can be")
    info.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    info.set_defaults(run=_info)
    return parser


def _info(options: argparse.Namespace) -> None:
    facts = gather()
    if options.json:
        print(json.dumps(facts, indent=2))
    else:
        _print_table(facts)


def gather() -> dict:
    """Versions, instruction sets, CUDA, threads, and the measured peaks by number of threads.

    Peaks are of float32 FMA in GFLOP/s and of memory in GB/s, each measured for a fraction of a second on one
    thread and on all that torch uses.
    """
    from cnnkern import _C

    build = _C.build_info()
    threads = torch.get_num_threads()
    counts = sorted({1, threads})
    return {
        "version": build["version"],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "built_against_torch": build["torch"],
        "compiler": build["compiler"],
        "cxx_flags": build["cxx_flags"],
        "cpu": _cpu_name(),
        "cpu_features": _C.cpu_features(),
        "isas": {
            "compiled": _C.compiled_isas(),
            "available": _C.available_isas(),
            "chosen": _C.current_isa(),
        },
        "cuda": {
            "built": build["cuda"],
            "toolkit": build["cuda_toolkit"],
            "reason": build["cuda_reason"],
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "threads": threads,
        "fma_peak_gflops": {str(n): round(_C.fma_peak(n), 1) for n in counts},
        "memory_bandwidth_gbs": {str(n): round(_C.memory_bandwidth(n), 1) for n in counts},
    }


def _cpu_name() -> str:
    """The CPU's own name where the system tells it, else its architecture."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.machine()


def _print_table(facts: dict) -> None:
    from rich.console import Console
    from rich.table import Table

    isas, cuda = facts["isas"], facts["cuda"]
    features = [name for name, present in facts["cpu_features"].items() if present]
    rows = [
        ("cnnkern", facts["version"]),
        ("Python", facts["python"]),
        ("torch", f"{facts['torch']} (compiled against {facts['built_against_torch']})"),
        ("compiler", facts["compiler"]),
        ("flags", facts["cxx_flags"]),
        ("CPU", facts["cpu"]),
        ("CPU features", ", ".join(features) or "none that we use"),
        ("ISAs compiled", ", ".join(isas["compiled"])),
        ("ISAs available", ", ".join(isas["available"])),
        ("ISA chosen", isas["chosen"]),
        ("CUDA", f"built with {cuda['toolkit']}" if cuda["built"] else f"not built: {cuda['reason']}"),
        ("GPU", cuda["device"] or "none that torch can use"),
        ("threads", str(facts["threads"])),
        ("FMA peak", _by_threads(facts["fma_peak_gflops"], "GFLOP/s")),
        ("memory", _by_threads(facts["memory_bandwidth_gbs"], "GB/s")),
    ]
    table = Table(show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    Console(highlight=False, markup=False).print(table)


def _by_threads(peaks: dict[str, float], unit: str) -> str:
    return ", ".join(f"{peak} {unit} on {n} thread{'' if n == '1' else 's'}" for n, peak in peaks.items())
