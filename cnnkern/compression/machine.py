"""What measured times depend on besides the code."""

import platform
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from cnnkern import _C

CPUINFO = Path("/proc/cpuinfo")
# by vendor, family and model: servers that the clouds' virtual machines call by one and the same name
GENERATIONS = {
    ("GenuineIntel", "6", "85"): "Skylake or Cascade Lake",
    ("GenuineIntel", "6", "106"): "Ice Lake",
    ("GenuineIntel", "6", "143"): "Sapphire Rapids",
    ("GenuineIntel", "6", "207"): "Emerald Rapids",
    ("GenuineIntel", "6", "173"): "Granite Rapids",
}


def environment(device: torch.device | None = None) -> dict[str, str | int]:
    """Versions, CPU, instruction set and threads; the name of a GPU, where the times are a GPU's."""
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device and device.type == "cuda" else {}
    return gpu | {
        "cnnkern": _C.build_info()["version"],
        "torch": torch.__version__,
        "cpu": cpu_name(),
        "isa": _C.current_isa(),
        "threads": torch.get_num_threads(),
    }


def cpu_name() -> str:
    """The CPU's own name where the system tells it, else its architecture.

    With its generation, where the name leaves that open, as it does on many virtual machines.
    """
    try:
        with CPUINFO.open(encoding="utf-8") as lines:
            return _named(dict(_fields(lines))) or platform.machine()
    except OSError:
        return platform.machine()


def _fields(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Of the first CPU."""
    for line in lines:
        name, separator, value = line.partition(":")
        if not separator:
            return
        yield name.strip(), value.strip()


def _named(facts: Mapping[str, str]) -> str:
    name = facts.get("model name", "")
    key = tuple(facts.get(each, "") for each in ("vendor_id", "cpu family", "model"))
    generation = GENERATIONS.get(key)
    return f"{name} ({generation})" if generation else name


def gather() -> dict[str, Any]:
    """Versions, instruction sets, CUDA, threads, and the measured peaks by number of threads.

    Peaks are of float32 FMA in GFLOP/s and of memory in GB/s, each measured for a fraction of a second on one
    thread and on all that torch uses.
    """
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
        "cpu": cpu_name(),
        "cpu_features": _C.cpu_features(),
        "isas": {
            "compiled": _C.compiled_isas(),
            "available": _C.available_isas(),
            "chosen": _C.current_isa(),
            "int8": _C.int8_kernel(),
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


def table_of(facts: dict[str, Any]) -> Table:
    """What `gather` found, for a rich console."""
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
        ("int8 kernel", isas["int8"]),
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
    return table


def _by_threads(peaks: dict[str, float], unit: str) -> str:
    return ", ".join(f"{peak} {unit} on {n} thread{'' if n == '1' else 's'}" for n, peak in peaks.items())
