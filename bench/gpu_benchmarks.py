"""The benchmarks of `make gpu`, in a process of their own: `python -m bench.gpu_benchmarks RECORD SECONDS`.

An error on a GPU can leave nothing usable behind. Then the process ends, and another one goes on after the
contest that did it, as it does after one that never came to its end.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from bench.gpu_record import ROOT, Record, clocks, environment, has_wgmma, told

if TYPE_CHECKING:
    from bench.graph_timing import CapturedCall
    from bench.layers import Workload

GRACE = 15.0  # seconds that the last contest may need to come to its end
STALLED = 60.0  # seconds that no contest takes, nor the peaks before the first one
POLL = 1.0
BROKEN = 3  # exit status: what runs on this GPU needs a new process
LATE = "it did not come to its end"
FIRST_BATCH = 16


class Contest(Protocol):
    """Something of the layer table that is timed against something else."""

    arithmetic: str

    @property
    def key(self) -> str: ...

    @property
    def work(self) -> "Workload": ...

    @property
    def contenders(self) -> tuple[str, ...]: ...

    def calls(self) -> tuple[list["CapturedCall"], dict[str, str]]: ...

    def run(self, flush: Tensor) -> dict[str, Any]: ...


def run_benchmarks(record: Record, end: float) -> None:
    """All that have no result yet, as far as they get before `end`, a time of time.monotonic()."""
    record.write()
    while (left := end - time.monotonic()) > 0:
        command = [sys.executable, "-m", "bench.gpu_benchmarks", str(record.path.resolve()), str(left)]
        code = watched(command, record.path, end + GRACE)
        record.reload()
        if code is None and time.monotonic() >= end + GRACE:
            record.found.pop("running", None)  # not its fault: the next call begins with it
            record.write()
            return
        blamed = blame(record, LATE if code is None else f"the process ended with {code}")
        if code == 0 or not (blamed or code == BROKEN):
            return  # done, or no contest's doing: what was said is on the screen


def watched(command: Sequence[str], path: Path, end: float) -> int | None:
    """The exit status of a process that writes `path` before and after each contest; None for one that was
    ended, since it wrote nothing for STALLED seconds, or at `end`."""
    process, begun = subprocess.Popen(command, cwd=ROOT), time.time()
    while True:
        try:
            return process.wait(POLL)
        except subprocess.TimeoutExpired:
            written = max(begun, path.stat().st_mtime)
            if time.monotonic() >= end or time.time() - written > STALLED:
                process.kill()
                process.wait()
                return None


def blame(record: Record, error: str) -> bool:
    """Give the contest that was begun last a result, if it has none; whether there was such a one."""
    key = record.found.pop("running", None)
    if key is not None:
        record.found["benchmarks"][key] = {"error": error}
        record.write()
    return key is not None


def in_order(*, wgmma: bool) -> list[Contest]:
    """The most telling first: where the time does not suffice, the end of the list is what is missing.

    `wgmma`: with our kernels by that core as well.
    """
    from bench.gpu_contests import FIRST_ARITHMETICS, all_contests
    from bench.gpu_int8 import int8_contests

    first = (*FIRST_ARITHMETICS, "int8")
    return sorted(
        [*all_contests(wgmma=wgmma), *int8_contests(wgmma=wgmma)],
        # a product has no batch
        key=lambda c: (c.arithmetic not in first, getattr(c, "batch", FIRST_BATCH) != FIRST_BATCH),
    )


def main(path: Path, seconds: float) -> int:
    from bench.graph_timing import flushing_buffer, measured_peaks

    end = time.monotonic() + seconds
    record = Record(path, environment())
    blame(record, LATE)
    contests = in_order(wgmma=wgmma_works(record))
    record.found["contests"] = {contest.key: asdict(contest.work) for contest in contests}
    record.write()
    flush = flushing_buffer()
    if "peaks" not in record.found:
        record.found["peaks"] = measured_peaks(flush)
        record.found["clocks under load"] = clocks()
    for contest in contests:
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
            result = {"error": told(error)}
        record.found["benchmarks"][contest.key] = result
        del record.found["running"]
        record.write()
        if "error" in result and is_broken():
            return BROKEN
    record.found["complete"] = True
    record.write()
    return 0


def wgmma_works(record: Record) -> bool:
    """Whether the GPU at hand has these instructions, and the tests of the cores did not fail on it."""
    return has_wgmma() and record.found["steps"].get("test_cores", {}).get("status") != "failed"


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
