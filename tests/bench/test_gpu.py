"""What `make gpu` does around the GPU: it goes on where it stopped, and outlives what it runs."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench import gpu_benchmarks, gpu_checks
from bench.gpu_benchmarks import BROKEN, LATE, run_benchmarks
from bench.gpu_checks import FOUND, Step, run_step, status_of
from bench.gpu_contests import add_wgmma
from bench.gpu_record import BENCHMARKS, BENCHMARKS_DIGEST, ROOT, TESTS, TESTS_DIGEST, Record, digest_of

HERE = {"sources": "a", "gpu": "b", "torch": "c", "cuda": "d", "date": "today"}
HERE |= {TESTS_DIGEST: "e", BENCHMARKS_DIGEST: "f"}
# What a machine with nothing but torch, numpy, pytest and pytest-benchmark does not have.
DEPENDENCIES = ("rich", "tqdm", "scipy", "tensorly", "safetensors", "hypothesis", "onnx")


def without(packages: Sequence[str]) -> str:
    """The beginning of a script that cannot import these."""
    return f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {packages!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
"""


def test_a_second_call_goes_on_and_another_package_begins_again(tmp_path: Path) -> None:
    path = tmp_path / "results" / "gpu.json"
    Record(path, HERE).step("build", {"status": "passed"})
    assert Record(path, HERE | {"date": "tomorrow"}).is_done("build")
    for name in ("sources", "gpu", "torch"):
        assert not Record(path, HERE | {name: "other"}).is_done("build")


@pytest.mark.parametrize(
    ("changed", "steps", "rest"),
    [
        ((), {"build", "test_conv2d"}, {"benchmarks", "contests", "peaks", "complete"}),
        ((TESTS_DIGEST,), {"build"}, {"benchmarks", "contests", "peaks", "complete"}),
        ((BENCHMARKS_DIGEST,), {"build", "test_conv2d"}, {"benchmarks"}),
        ((TESTS_DIGEST, BENCHMARKS_DIGEST), {"build"}, {"benchmarks"}),
    ],
    ids=lambda value: "+".join(sorted(value)),
)
def test_what_has_changed_is_done_again_and_the_rest_is_not(
    tmp_path: Path, changed: tuple[str, ...], steps: set[str], rest: set[str]
) -> None:
    before = Record(tmp_path / "gpu.json", HERE)
    before.found |= {"contests": {"x": {}}, "peaks": {"tf32": 1.0}, "complete": True}
    before.found["benchmarks"]["x"] = {"seconds": {}}
    for name in ("build", "test_conv2d"):
        before.step(name, {"status": "passed"})
    now = HERE | dict.fromkeys(changed, "other") | {"date": "tomorrow"}
    found = Record(before.path, now).found
    assert found["steps"].keys() == steps
    assert found.keys() == {"environment", "steps"} | rest
    assert bool(found["benchmarks"]) == ("contests" in rest)
    assert found["environment"] == (now if changed else HERE)
    before.path.write_text(json.dumps(found))
    assert Record(before.path, now).found == found


def test_the_digests_are_of_all_that_tests_and_benchmarks_import() -> None:
    """But for the package and pytest's own files."""

    def files_of(patterns: Sequence[str]) -> set[Path]:
        return {path for pattern in patterns for path in ROOT.glob(pattern)}

    script = "import bench.gpu_benchmarks\nbench.gpu_benchmarks.in_order(wgmma=True)\n"
    assert imported_by(script) - {ROOT / "bench" / "__init__.py"} == files_of(BENCHMARKS)
    modules = [f"tests.cuda.{path.stem}" for path in sorted((ROOT / "tests" / "cuda").glob("*.py"))]
    script = f"import {', '.join(modules)}\n"
    assert imported_by(script) - {ROOT / "tests" / "__init__.py"} <= files_of(TESTS)


def imported_by(script: str) -> set[Path]:
    """The files of bench/ and tests/ that a script has imported at its end."""
    script += "import sys\nfor name, module in list(sys.modules.items()):\n"
    script += "    if name.split('.')[0] in ('bench', 'tests') and module.__file__: print(module.__file__)\n"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(map(Path, done.stdout.split()))


@pytest.mark.parametrize("status", ["failed", "late"])
def test_what_did_not_pass_is_done_again(tmp_path: Path, status: str) -> None:
    record = Record(tmp_path / "gpu.json", HERE)
    record.step("tests", {"status": status})
    assert not record.is_done("tests")


def test_the_package_is_known_by_its_contents(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    before = digest_of(tmp_path, ("*.py",))
    (tmp_path / "b.txt").write_text("2")
    assert digest_of(tmp_path, ("*.py",)) == before
    (tmp_path / "a.py").write_text("3")
    assert digest_of(tmp_path, ("*.py",)) != before


def test_a_step_that_takes_too_long_ends_with_its_children_and_leaves_its_words(tmp_path: Path) -> None:
    child = f"import time, pathlib; time.sleep(3); pathlib.Path({str(tmp_path / 'outlived')!r}).touch()"
    run = f"subprocess.run([{sys.executable!r}, '-c', {child!r}])"
    parent = f"print('begun', flush=True)\nimport subprocess\n{run}"
    result = run_step(
        Step("tests", (sys.executable, "-c", parent)), tmp_path / "logs" / "log", time.monotonic() + 1.5
    )
    assert result["status"] == "late"
    assert result["output"] == "begun"
    time.sleep(2)
    assert not (tmp_path / "outlived").exists()


@pytest.mark.parametrize(
    ("name", "code", "said", "status"),
    [
        ("test_conv2d", 0, "3 passed", "passed"),
        ("test_conv2d", 5, "no tests ran", "passed"),
        ("test_conv2d", 1, "the debugger", "failed"),
        ("test_conv2d", None, "", "late"),
        ("memcheck", 0, "========= ERROR SUMMARY: 0 errors", "passed"),
        ("memcheck", FOUND, "========= ERROR SUMMARY: 2 errors", "failed"),
        ("memcheck", FOUND, "========= Error: Device not supported", "unavailable"),
        ("racecheck", 1, "Unable to use a debugger interface", "unavailable"),
    ],
)
def test_what_becomes_of_a_step(name: str, code: int | None, said: str, status: str) -> None:
    assert status_of(name, code, said) == status


def test_benchmarks_go_on_after_one_that_takes_the_process_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash, an error that leaves the GPU unusable, one without an end; then the rest."""
    path = tmp_path / "gpu.json"
    script = iter([({"running": "first"}, -11), ({"benchmarks": {"second": {"error": "bad"}}}, BROKEN)])

    def run(command: list[str], path: Path, end: float) -> int | None:
        found = json.loads(path.read_text())
        change, code = next(script, ({"running": "third"}, None))
        if "third" in found["benchmarks"]:
            change, code = {"benchmarks": {"fourth": {"seconds": {}}}}, 0
        found["benchmarks"] |= change.get("benchmarks", {})
        path.write_text(json.dumps(found | {k: v for k, v in change.items() if k != "benchmarks"}))
        return code

    monkeypatch.setattr(gpu_benchmarks, "watched", run)
    record = Record(path, HERE)
    run_benchmarks(record, time.monotonic() + 100)
    assert record.found["benchmarks"] == {
        "first": {"error": "the process ended with -11"},
        "second": {"error": "bad"},
        "third": {"error": LATE},
        "fourth": {"seconds": {}},
    }


def test_a_benchmark_that_the_time_did_not_suffice_for_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], path: Path, end: float) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"running": "first"}))
        time.sleep(0.02)

    monkeypatch.setattr(gpu_benchmarks, "watched", run)
    monkeypatch.setattr(gpu_benchmarks, "GRACE", 0.0)
    record = Record(tmp_path / "gpu.json", HERE)
    run_benchmarks(record, time.monotonic() + 0.01)
    assert record.found["benchmarks"] == {}
    assert "running" not in record.found


def test_a_process_that_fails_without_a_contest_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(gpu_benchmarks, "watched", lambda *arguments: calls.append(arguments) or 1)
    run_benchmarks(Record(tmp_path / "gpu.json", HERE), time.monotonic() + 100)
    assert len(calls) == 1


@pytest.mark.parametrize("writes", [True, False])
def test_a_process_that_writes_nothing_any_more_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: bool
) -> None:
    monkeypatch.setattr(gpu_benchmarks, "STALLED", 0.3)
    monkeypatch.setattr(gpu_benchmarks, "POLL", 0.1)
    path = tmp_path / "gpu.json"
    path.touch()
    written = time.time() + (1e6 if writes else -1e6)
    os.utime(path, (written, written))
    command = (sys.executable, "-c", "import time; time.sleep(1.5)")
    code = gpu_benchmarks.watched(command, path, time.monotonic() + 1000)
    assert code == (0 if writes else None)


def test_a_core_that_failed_its_tests_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_benchmarks.torch.cuda, "get_device_capability", lambda: (9, 0))
    record = Record(tmp_path / "gpu.json", HERE)
    assert gpu_benchmarks.wgmma_works(record)
    record.step("test_cores", {"status": "failed"})
    assert not gpu_benchmarks.wgmma_works(record)


def test_what_fails_by_wgmma_leaves_the_other_times() -> None:
    def fail(layout: str) -> None:
        raise AssertionError(f"wrong in {layout}")

    calls: list = []
    assert add_wgmma(calls, fail, ["contiguous"]) == {
        "cnnkern wgmma/contiguous": "AssertionError: wrong in contiguous"
    }
    assert calls == []


def test_every_file_of_tests_is_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_checks.shutil, "which", lambda _: None)
    steps = {step.name: step for step in gpu_checks.check_steps()}
    assert {"memcheck", "racecheck", "memcheck of wgmma", "test_on_gpu", "test_conv2d"} < set(steps)
    assert "test_cores" in steps  # by which the benchmarks know whether wgmma works
    assert "test_schedules" not in steps
    assert steps["memcheck"].reason == "there is no compute-sanitizer here"
    file, _, test = gpu_checks.SANITIZED_TEST.partition("::")
    assert f"def {test}(" in (gpu_checks.ROOT / file).read_text()


def test_nothing_needs_a_package_but_torch_and_pytest() -> None:
    """Not even the package's own dependencies."""
    script = without(DEPENDENCIES) + "import bench.gpu, bench.gpu_benchmarks\n"
    script += "bench.gpu_benchmarks.in_order(wgmma=True)\n"
    for path in sorted((gpu_checks.ROOT / "tests" / "cuda").glob("*.py")):
        script += f"import tests.cuda.{path.stem}\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_package_need_not_be_built_yet() -> None:
    script = without(("cnnkern",)) + "import bench.gpu"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
