"""What measured times depend on besides the code."""

import platform

import torch

from cnnkern import _C


def environment() -> dict[str, str | int]:
    """Versions, CPU, instruction set and threads."""
    return {
        "cnnkern": _C.build_info()["version"],
        "torch": torch.__version__,
        "cpu": cpu_name(),
        "isa": _C.current_isa(),
        "threads": torch.get_num_threads(),
    }


def cpu_name() -> str:
    """The CPU's own name where the system tells it, else its architecture."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.machine()
