"""`make gpu`: everything that only a GPU can show, in one go of at most ten minutes.

Builds the package with its CUDA kernels, runs their tests on the GPU, looks for memory errors and races with
compute-sanitizer over a few of them, and times them against cuDNN. What is done is kept in bench/results/,
with the output of each step in a log beside it, so that a second call goes on where the first one stopped;
for another package, GPU or torch it begins again. Needs a CUDA build of torch, numpy, pytest, nvcc and what
a build on the CPU needs, and nothing from the network.
"""

import argparse
import sys
import time
from pathlib import Path

import torch

from bench.gpu_benchmarks import run_benchmarks
from bench.gpu_checks import build, check_steps, run_checks
from bench.gpu_record import BUILD, RESULTS, Record, environment, slug
from bench.gpu_report import show

CHECKS = 0.5  # share of the time after the build that tests and sanitizers may take
RESERVE = 20.0  # seconds that the last benchmark may need to come to its end


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if (missing := why_not()) is not None:
        print(f"make gpu: {missing}", file=sys.stderr)
        return 1
    start = time.monotonic()
    end = start + options.seconds
    record = Record(options.json or RESULTS / f"{slug()}.json", environment())
    if build(record, end - RESERVE):
        now = time.monotonic()
        run_checks(record, now + CHECKS * (end - now))
        run_benchmarks(record, end - RESERVE)
    show(record.found)
    left = [name for name in (BUILD, *(step.name for step in check_steps())) if not record.is_done(name)]
    left += ["benchmarks"] * ("complete" not in record.found)
    if left:
        print(f"not done: {', '.join(left)}; what each said is beside {record.path}, a second call goes on")
    failed = any("error" in row or "errors" in row for row in record.found["benchmarks"].values())
    return 1 if left or failed else 0


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


if __name__ == "__main__":
    sys.exit(main())
