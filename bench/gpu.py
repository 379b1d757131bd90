"""`make gpu`: everything that only a GPU can show, in one go of at most ten minutes.

Builds the package with its CUDA kernels, runs their tests on the GPU, looks for memory errors and races with
compute-sanitizer over a few of them, and times them against cuDNN. What is done is kept in bench/results/, so
that a second call goes on where the first one stopped; for another commit it begins again. Needs a CUDA build
of torch, numpy, pytest and nvcc, and nothing from the network.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from math import exp, log
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
SANITIZERS = ("memcheck", "racecheck")
TESTS = ["tests/cuda", "--ignore=tests/cuda/test_schedules.py", "-k", "not emulated"]
SANITIZED_TESTS = ["tests/cuda/test_on_gpu.py", "-k", "every_kernel"]
RESERVE = 20.0  # seconds that a step may need to come to its end


class Record:
    """What was found, as a JSON file that is written after every step."""

    def __init__(self, path: Path, environment: dict) -> None:
        self.path = path
        self.found = {"environment": environment, "steps": {}, "benchmarks": {}}
        if path.exists():
            before = json.loads(path.read_text())
            if before["environment"]["commit"] == environment["commit"]:
                self.found = before

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.found, indent=1) + "\n")

    def step(self, name: str, result: dict) -> None:
        self.found["steps"][name] = result
        self.write()

    def is_done(self, name: str) -> bool:
        return self.found["steps"].get(name, {}).get("status") in ("passed", "unavailable")


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if (missing := why_not()) is not None:
        print(f"make gpu: {missing}", file=sys.stderr)
        return 1
    end = time.monotonic() + options.seconds
    record = Record(options.json or RESULTS / f"{slug()}.json", environment())
    failed = [name for name in run_checks(record, end) if not record.is_done(name)]
    if "build" not in failed:
        run_benchmarks(record, end)
    show(record.found)
    return 1 if failed else 0


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=570, help="for everything (570)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="default: bench/results/<GPU>.json")
    return parser


def why_not() -> str | None:
    """What is missing on this machine, or None."""
    if not torch.cuda.is_available():
        build = f"torch {torch.__version__}"
        return f"no GPU here that {build} can use: nothing was run, and there are no numbers without one"
    if torch.cuda.get_device_capability() < (8, 0):
        return f"{torch.cuda.get_device_name()} is older than compute capability 8.0"
    return None


def run_checks(record: Record, end: float) -> list[str]:
    """Build, tests and sanitizers, as far as they are not done yet; the names of all."""
    steps = {"build": [sys.executable, "setup.py", "build_ext", "--inplace"]}
    steps["tests"] = [sys.executable, "-m", "pytest", "-q", *TESTS]
    sanitizer = shutil.which("compute-sanitizer")
    for tool in SANITIZERS:
        command = [sanitizer, "--tool", tool, "--error-exitcode", "86", "--target-processes", "all"]
        pytest = [sys.executable, "-m", "pytest", "-q", *SANITIZED_TESTS]
        steps[tool] = [*command, *pytest] if sanitizer else []
    for name, command in steps.items():
        if record.is_done(name):
            continue
        print(f"{name} ...", flush=True)
        record.step(name, run_step(name, command, end))
        if name == "build" and not record.is_done(name):
            break
    return list(steps)


def run_step(name: str, command: list[str], end: float) -> dict:
    """Status (passed, failed, unavailable or late), seconds, and the last lines of the output."""
    if not command:
        return {"status": "unavailable", "output": "there is no compute-sanitizer here"}
    start = time.monotonic()
    environment = {**os.environ, "CNNKERN_CUDA": "1"}
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=max(1.0, end - start - RESERVE),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"status": "late", "seconds": time.monotonic() - start}
    status = "passed" if done.returncode == 0 else "failed"
    if name in SANITIZERS and re.search(r"not supported|Device not supported|debugger", done.stdout):
        status = "unavailable"  # virtual machines often forbid what these tools need
    tail = done.stdout.splitlines()[-30:]
    print("\n".join(tail[-5:]), flush=True)
    return {"status": status, "seconds": time.monotonic() - start, "output": "\n".join(tail)}


def run_benchmarks(record: Record, end: float) -> None:
    """The contests that have no result yet, until the time is up."""
    from bench.gpu_contests import all_contests
    from bench.gpu_int8 import int8_contests
    from bench.graph_timing import bandwidth, flushing_buffer, peak_flops

    flush = flushing_buffer()
    if "peaks" not in record.found:
        record.found["peaks"] = {
            "bfloat16": peak_flops(torch.bfloat16, flush),
            "bandwidth": bandwidth(flush),
        }
    for contest in (*all_contests(), *int8_contests()):
        if contest.key in record.found["benchmarks"]:
            continue
        if time.monotonic() > end - RESERVE:
            print("the time is up: call again to go on")
            return
        try:
            record.found["benchmarks"][contest.key] = contest.run(flush)
        except (AssertionError, RuntimeError) as error:
            record.found["benchmarks"][contest.key] = {"error": str(error)[:500]}
        record.write()
    record.found["complete"] = True
    record.write()


def best(seconds: dict[str, float], *who: str) -> float:
    """Of the faster layout."""
    return min(value for name, value in seconds.items() if name.split("/")[0] in who)


def show(found: dict) -> None:
    """Steps, a line for each contest, and the geometric means of each arithmetic and kind of layer."""
    for name, value in found["environment"].items():
        print(f"{name}: {value}")
    for name, step in found["steps"].items():
        print(f"{name}: {step['status']} in {step.get('seconds', 0):.0f} s")
    # "over dense": over cuDNN's dense layer with a rank, over our own with a density or a rate
    print(f"{'':52}{'ours':>10}{'stock':>10}{'x':>7}{'over dense':>12}{'FLOPs':>7}{'even at R':>11}")
    ratios: dict[str, list[float]] = {}
    for key, row in found["benchmarks"].items():
        if "error" in row:
            print(f"{key:52}{row['error'].splitlines()[0]}")
            continue
        work, seconds = row["work"], row["seconds"]
        ours, stock = best(seconds, "cnnkern"), best(seconds, "cudnn", "torch")
        line = f"{key:52}{ours * 1e6:8.1f}us{stock * 1e6:8.1f}us{stock / ours:7.2f}"
        if work["rank"] is not None:
            dense = best(seconds, "cudnn dense") / ours
            # as if the time were proportional to the rank
            line += f"{dense:12.2f}{work['dense_flops'] / work['flops']:7.1f}{work['rank'] * dense:11.0f}"
        elif any(name.startswith("cnnkern dense/") for name in seconds):
            over_own_dense = best(seconds, "cnnkern dense") / ours
            line += f"{over_own_dense:12.2f}{work['dense_flops'] / work['flops']:7.1f}"
            name = f"{work['suite']} over our dense layer, {key.rsplit(', ', 1)[1]}"
            ratios.setdefault(name, []).append(over_own_dense)
        print(line)
        ratios.setdefault(f"{work['suite']}, {key.rsplit(', ', 1)[1]}", []).append(stock / ours)
    for name, values in ratios.items():
        print(f"{name}: geometric mean {exp(sum(map(log, values)) / len(values)):.2f} over {len(values)}")


def environment() -> dict[str, str]:
    """What the numbers depend on."""
    query = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit"
    said = _output("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _output("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"),
        "gpu": torch.cuda.get_device_name(),
        query: said,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": str(torch.backends.cudnn.version()),
    }


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def slug() -> str:
    """The GPU as a file name."""
    return "-".join(re.findall(r"[a-z0-9]+", torch.cuda.get_device_name().lower()))


if __name__ == "__main__":
    sys.exit(main())
