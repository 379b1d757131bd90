"""The file in which `make gpu` keeps what it found, so that a second call goes on where the first stopped."""

import hashlib
import json
import os
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
# Another package, GPU or torch is another result.
IDENTITY = ("sources", "gpu", "torch", "cuda")
PACKAGE = ("csrc/**/*", "cnnkern/**/*.py", "build_support/*.py", "setup.py")
# What else the tests, and the benchmarks, are made of.
TESTS = (
    "bench/gpu_checks.py",
    "tests/conftest.py",
    *(f"tests/{name}/*.py" for name in ("cuda", "ops", "emulator")),
)
BENCHMARKS = tuple(
    f"bench/{name}.py"
    for name in (
        "contests",
        "gpu_benchmarks",
        "gpu_contests",
        "gpu_int8",
        "gpu_record",
        "graph_timing",
        "int8",
        "layers",
        "timing",
    )
)
TESTS_DIGEST, BENCHMARKS_DIGEST = "digest of tests", "digest of benchmarks"
BUILD = "build"
WGMMA = "cnnkern wgmma"  # the contender that is ours by the instructions of a warpgroup
QUERY = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit"


class Record:
    """What was found, as a JSON file that is written after every step.

    `steps`: {name: {"status", "seconds", "output"}} with the status passed, failed, late or unavailable;
    `contests`: {name: work} of all that are to be timed, once the benchmarks have begun; `benchmarks`: {name:
    {"seconds", "errors"} or {"error"}}; `running`: the benchmark that was begun last; `complete`: there, once
    no benchmark is left.

    For another package, GPU or torch all of it is done again. Tests and benchmarks have digests of their own:
    where only these files changed, they are done again, and the build, which is the same, is not; the report
    is in no digest, so that other words cost no results.
    """

    def __init__(self, path: Path, environment: dict[str, str]) -> None:
        self.path = path
        self.found: dict[str, Any] = {"environment": environment, "steps": {}, "benchmarks": {}}
        self._lock = Lock()
        if path.exists():
            before = json.loads(path.read_text())
            if all(before["environment"].get(name) == environment[name] for name in IDENTITY):
                self.found = still_true(before, environment)

    def reload(self) -> None:
        """Take over what another process wrote."""
        self.found = json.loads(self.path.read_text())

    def write(self) -> None:
        with self._lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            beside = self.path.with_suffix(".new")
            beside.write_text(json.dumps(self.found, indent=1) + "\n")
            beside.replace(self.path)  # whoever ends us leaves a whole file

    def step(self, name: str, result: dict[str, Any]) -> None:
        with self._lock:
            self.found["steps"][name] = result
        self.write()

    def is_done(self, name: str) -> bool:
        return self.found["steps"].get(name, {}).get("status") in ("passed", "unavailable")

    def log(self, name: str) -> Path:
        """Where all that a step says goes."""
        return self.path.with_name(f"{self.path.stem}.{re.sub('[^a-z0-9_]+', '-', name)}.log")


def still_true(found: dict[str, Any], environment: dict[str, str]) -> dict[str, Any]:
    """Of what was found with the same package, all but the tests and benchmarks that are others now."""
    before = found["environment"]
    tests, benchmarks = (before.get(part) == environment[part] for part in (TESTS_DIGEST, BENCHMARKS_DIGEST))
    if tests and benchmarks:
        return found
    steps = {name: step for name, step in found["steps"].items() if tests or name == BUILD}
    kept = found if benchmarks else {"benchmarks": {}}
    return kept | {"environment": environment, "steps": steps}


def environment() -> dict[str, str]:
    """What the numbers depend on."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": said_by("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"),
        "sources": digest_of(ROOT, PACKAGE),
        TESTS_DIGEST: digest_of(ROOT, TESTS),
        BENCHMARKS_DIGEST: digest_of(ROOT, BENCHMARKS),
        "gpu": torch.cuda.get_device_name(),
        QUERY: clocks(),
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
        "processors": str(os.cpu_count()),
    }


def clocks() -> str:
    """Driver, clocks now and at most, and the limit of power."""
    return said_by("nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader")


def has_wgmma() -> bool:
    """Whether the GPU at hand has the instructions of WGMMA."""
    return torch.cuda.get_device_capability() == (9, 0)


def told(error: Exception) -> str:
    """An error for the record."""
    return f"{type(error).__name__}: {error}"[:500]


def said_by(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def digest_of(root: Path, patterns: tuple[str, ...]) -> str:
    """Of names and contents: a copy without its history is known by it too, and so is one with changes."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in root.glob(pattern) if path.is_file()}):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root)} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def slug() -> str:
    """The GPU as a file name."""
    return "-".join(re.findall(r"[a-z0-9]+", torch.cuda.get_device_name().lower()))
