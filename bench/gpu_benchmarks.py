"""The benchmarks of `make gpu`, in a process of their own: `python -m bench.gpu_benchmarks RECORD SECONDS`.

An error on a GPU can leave nothing usable behind. Then the process ends, and another one goes on after the
contest that did it, as it does after one that never came to its end.
"""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from bench.gpu_record import ROOT, Record, clocks, environment

BROKEN = 3  # exit status: what runs on this GPU needs a new process
LATE = "it did not come to its end"
FIRST_BATCH = 16


class Contest(Protocol):
    """Something of the layer table that is timed against something else."""

    arithmetic: str

    @property
    def key(self) -> str: ...

    def run(self, flush: Tensor) -> dict[str, Any]: ...


def run_benchmarks(record: Record, end: float) -> None:
    """All that have no result yet, as far as they get before `end`, a time of time.monotonic()."""
    command = [sys.executable, "-m", "bench.gpu_benchmarks", str(record.path.resolve())]
    record.write()
    while (left := end - time.monotonic()) > 0:
        try:
            code = subprocess.run([*command, str(left)], cwd=ROOT, timeout=left + 20, check=False).returncode
        except subprocess.TimeoutExpired:
            code = None
        record.reload()
        blamed = blame(record, LATE if code is None else f"the process ended with {code}")
        if code == 0 or not (blamed or code == BROKEN):
            return  # done, or no contest's doing: what was said is on the screen


def blame(record: Record, error: str) -> bool:
    """Give the contest that was begun last a result, if it has none; whether there was such a one."""
    key = record.found.pop("running", None)
    if key is not None:
        record.found["benchmarks"][key] = {"error": error}
        record.write()
    return key is not None


def in_order() -> list[Contest]:
    """The most telling first: where the time does not suffice, the end of the list is what is missing."""
    from bench.gpu_contests import FIRST_ARITHMETICS, all_contests
    from bench.gpu_int8 import int8_contests

    first = (*FIRST_ARITHMETICS, "int8")
    return sorted(
        [*all_contests(), *int8_contests()],
        # a product has no batch
        key=lambda c: (c.arithmetic not in first, getattr(c, "batch", FIRST_BATCH) != FIRST_BATCH),
    )


def main(path: Path, seconds: float) -> int:
    from bench.graph_timing import flushing_buffer, measured_peaks

    end = time.monotonic() + seconds
    record = Record(path, environment())
    blame(record, LATE)
    flush = flushing_buffer()
    if "peaks" not in record.found:
        record.found["peaks"] = measured_peaks(flush)
        record.found["clocks under load"] = clocks()
    for contest in in_order():
        if contest.key in record.found["benchmarks"]:
            continue
        if time.monotonic() > end:
            print("the time is up: call again to go on")
            return 0
        record.found["running"] = contest.key
        record.write()
        try:
            result = contest.run(flush)
            torch.cuda.synchronize()
        except Exception as error:  # whatever it is, the others go on
            result = {"error": f"{type(error).__name__}: {error}"[:500]}
        record.found["benchmarks"][contest.key] = result
        del record.found["running"]
        record.write()
        if "error" in result and is_broken():
            return BROKEN
    record.found["complete"] = True
    record.write()
    return 0


def is_broken() -> bool:
    """Whether the GPU's context is of no use any more."""
    try:
        torch.cuda.synchronize()
        torch.zeros(1, device="cuda").item()
    except RuntimeError:
        return True
    return False


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2])))
