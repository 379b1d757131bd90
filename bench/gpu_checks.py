"""What `make gpu` does before it takes times: build, the tests of CUDA kernels, and compute-sanitizer.

Each file of tests is a process of its own: what one does to the GPU's context is no trouble of the others',
and what has passed need not be done again. They take turns on the GPU and are not timed, so several run at
once.
"""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench.gpu_record import BUILD, ROOT, Record, has_wgmma

MEMCHECK_WGMMA = "memcheck of wgmma"
SANITIZERS = ("memcheck", "racecheck", MEMCHECK_WGMMA)
MOST_SECONDS = 150.0  # of a step: what takes longer leaves the benchmarks no time
SANITIZED_TEST = "tests/cuda/test_on_gpu.py::test_every_kernel_runs_on_small_cases"
FOUND = 86  # exit status of a sanitizer that found something
# Virtual machines often forbid what these tools need. The first is followed by errors that are none of ours.
UNSUPPORTED = "Device not supported"
FORBIDDEN = re.compile(rf"{UNSUPPORTED}|Internal Sanitizer Error|debugger")
EMULATED_ALONE = {"test_schedules.py"}
NOTHING_SELECTED = 5  # exit status of pytest
LAST_LINES = 40


@dataclass(frozen=True)
class Step:
    """A command, run in the project's folder; without one it is not to be had here, and `reason` says why."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""


def build_step() -> Step:
    """For this GPU alone, unless the environment asks for others."""
    major, minor = torch.cuda.get_device_capability()
    architecture = f"{major}{minor}" + "a" * (major == 9)
    asked = os.environ.get("CNNKERN_CUDA_ARCHS") or architecture
    command = (sys.executable, "setup.py", "build_ext", "--inplace")
    return Step(BUILD, command, {"CNNKERN_CUDA": "1", "CNNKERN_CUDA_ARCHS": asked})


def check_steps() -> list[Step]:
    """The sanitizers, which take longest, then the tests."""
    pytest = (sys.executable, "-m", "pytest", "-q", "--tb=short")
    steps = [sanitizer_step(name, (*pytest, SANITIZED_TEST)) for name in SANITIZERS]
    for path in sorted((ROOT / "tests" / "cuda").glob("test_*.py")):
        if path.name not in EMULATED_ALONE:
            steps.append(Step(path.stem, (*pytest, "-k", "not emulated", str(path.relative_to(ROOT)))))
    return steps


def sanitizer_step(name: str, tests: tuple[str, ...]) -> Step:
    tool = name.split()[0]
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        return Step(name, (), reason="there is no compute-sanitizer here")
    # A cache of memory would hide what lies beyond the end of a tensor.
    environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    if name == MEMCHECK_WGMMA:
        if not has_wgmma():
            return Step(name, (), reason="this GPU has no wgmma")
        environment["CNNKERN_CUDA_CORE"] = "wgmma"
    options = ["--tool", tool, "--error-exitcode", str(FOUND), "--target-processes", "all"]
    if tool == "memcheck":
        options += ["--report-api-errors", "no"]  # such as those that torch asks for and handles
    return Step(name, (sanitizer, *options, *tests), environment)


def build(record: Record, end: float) -> bool:
    """Whether there is a package to go on with: built now, or the very one that was built before."""
    before = record.found["steps"].get(BUILD, {})
    if record.is_done(BUILD) and before.get("library") == digest_of_library():
        return True
    print(f"{BUILD} ...", flush=True)
    result = run_step(build_step(), record.log(BUILD), end)
    record.step(BUILD, result | {"library": digest_of_library()})
    tell(BUILD, result)
    return result["status"] == "passed"


def digest_of_library() -> str | None:
    """Of cnnkern._ops as it lies in the source tree, if it does."""
    for path in sorted((ROOT / "cnnkern").glob("_ops.*so")):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return None


def run_checks(record: Record, end: float) -> None:
    """What is not done yet, as far as it gets before `end`."""
    steps = [step for step in check_steps() if not record.is_done(step.name)]
    processors = os.cpu_count() or 1
    at_once = max(1, min(8, processors // 2))
    threads = str(max(1, processors // at_once))

    def run(step: Step) -> None:
        print(f"{step.name} ...", flush=True)
        until = min(end, time.monotonic() + MOST_SECONDS)
        result = run_step(step, record.log(step.name), until, OMP_NUM_THREADS=threads)
        record.step(step.name, result)
        tell(step.name, result)

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(run, steps))


def run_step(step: Step, log: Path, end: float, **environment: str) -> dict[str, Any]:
    """Status, seconds and the last lines of what it said, all of which goes to `log`. At `end`, a time of
    time.monotonic(), the step and the processes that it started are ended."""
    if not step.command:
        return {"status": "unavailable", "seconds": 0.0, "output": step.reason}
    start = time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        process = subprocess.Popen(
            step.command,
            cwd=ROOT,
            env={**os.environ, **environment, **step.environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(max(1.0, end - start))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            code = None
    said = log.read_text(errors="replace")
    return {
        "status": status_of(step.name, code, said),
        "seconds": time.monotonic() - start,
        "output": "\n".join(said.splitlines()[-LAST_LINES:]),
    }


def status_of(name: str, code: int | None, said: str) -> str:
    """`code`: the exit status, or None where the time was up."""
    if name in SANITIZERS and (UNSUPPORTED in said or (code not in (0, FOUND) and FORBIDDEN.search(said))):
        return "unavailable"
    if code is None:
        return "late"
    return "passed" if code in (0, NOTHING_SELECTED) else "failed"


def tell(name: str, result: dict[str, Any]) -> None:
    last = [] if result["status"] == "passed" else result["output"].splitlines()[-8:]
    print("\n    ".join([f"{name}: {result['status']} in {result['seconds']:.0f} s", *last]), flush=True)
