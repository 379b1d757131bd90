"""`python -m cnnkern`: what a person reads, what a program reads, and errors that are one line."""

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

import cnnkern
from cnnkern import _C, cli

ISAS = ["scalar", "avx2", "avxvnni", "avx512", "amx"]


def test_info_as_json_is_what_the_modules_say():
    command = [sys.executable, "-m", "cnnkern", "info", "--json"]
    facts = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert facts["version"] == cnnkern.__version__
    assert facts["torch"] == torch.__version__
    assert facts["isas"]["compiled"] == _C.compiled_isas()
    assert facts["isas"]["available"] == _C.available_isas()
    assert facts["isas"]["chosen"] == _C.available_isas()[-1]
    assert facts["cuda"]["built"] or facts["cuda"]["reason"]
    assert set(facts["fma_peak_gflops"]) == {"1", str(facts["threads"])}
    for peaks in (facts["fma_peak_gflops"], facts["memory_bandwidth_gbs"]):
        assert all(peak > 0 for peak in peaks.values())


def test_info_as_a_table_shows_the_same(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["info"]) == 0
    text = capsys.readouterr().out
    for name in ("cnnkern", "torch", "compiler", "ISAs compiled", "ISA chosen", "CUDA", "threads"):
        assert name in text
    for value in (cnnkern.__version__, torch.__version__, _C.current_isa(), "GFLOP/s", "GB/s"):
        assert value in text
    assert ("CUDA" in text and "not built: " in text) or _C.build_info()["cuda"]


@pytest.mark.parametrize("isa", [*ISAS, "sse9"])
def test_the_environment_forces_an_isa_or_says_why_not(isa: str):
    done = subprocess.run(
        [sys.executable, "-c", "from cnnkern import _C; print(_C.current_isa())"],
        env={**os.environ, "CNNKERN_CPU_ISA": isa},
        capture_output=True,
        text=True,
        check=True,
    )
    available = _C.available_isas()
    complaint = f"CNNKERN_CPU_ISA: expected one of {', '.join(available)} on this CPU, got {isa!r}"
    assert done.stdout.strip() == (isa if isa in available else available[-1])
    assert (complaint in done.stderr) == (isa not in available)


def test_errors_are_one_line_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fail(options):
        raise ValueError("model: expected a file, got a folder")

    monkeypatch.setattr(cli, "gather", lambda: fail(None))
    assert cli.main(["info"]) == 1
    assert capsys.readouterr().err == "cnnkern: error: model: expected a file, got a folder\n"


def test_wrong_usage_says_what_is_right(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["frobnicate"])
    assert stopped.value.code == 2
    assert "invalid choice: 'frobnicate'" in capsys.readouterr().err


def test_one_version_everywhere(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"cnnkern {cnnkern.__version__}\n"
    assert _C.build_info()["version"] == cnnkern.__version__ == metadata.version("cnnkern")


@pytest.mark.parametrize("missing", [True, False], ids=["missing", "broken"])
def test_an_extension_that_does_not_load_says_what_to_do(tmp_path: Path, missing: bool):
    package = tmp_path / "cnnkern"
    package.mkdir()
    (package / "__init__.py").write_text(Path(cnnkern.__file__).read_text())
    if not missing:
        (package / "_ops.abi3.so").write_bytes(b"not a library")
    done = subprocess.run(
        [sys.executable, "-S", "-c", "import cnnkern"],  # -S: no finder of an editable install
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(torch.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    message = done.stderr.splitlines()[-1]
    assert message.startswith("ImportError: cnnkern")
    assert "pip install" in message
