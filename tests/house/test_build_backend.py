"""The PEP 517 backend asks for torch only where none is installed that we could build against."""

import importlib.util
import subprocess
import sys
import tarfile
import venv
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def backend() -> ModuleType:
    spec = importlib.util.spec_from_file_location("backend", ROOT / "build_support/backend.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def other_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh environment that pip's isolated process would belong to; returns its folder of packages."""
    venv.create(tmp_path, with_pip=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin/python"))
    return tmp_path / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"


def install_torch(packages: Path, version: str) -> None:
    (packages / "torch").mkdir()
    (packages / "torch/__init__.py").write_text(f"print('a greeting')\n__version__ = {version!r}\n")


def test_asks_for_torch_where_there_is_none(backend: ModuleType, other_python: Path):
    assert backend.get_requires_for_build_wheel() == ["torch>=2.11"]
    assert backend.get_requires_for_build_editable() == ["torch>=2.11"]


def test_asks_for_torch_where_it_is_too_old(backend: ModuleType, other_python: Path):
    install_torch(other_python, "2.10.1+cpu")
    assert backend.get_requires_for_build_wheel() == ["torch>=2.11"]


@pytest.mark.parametrize("version", ["2.11.0", "2.13.0+cpu", "2.12.0a0+git1a2b3c", "3.0"])
def test_uses_the_installed_torch(
    backend: ModuleType, other_python: Path, monkeypatch: pytest.MonkeyPatch, version: str
):
    install_torch(other_python, version)
    assert backend.get_requires_for_build_wheel() == []
    assert backend.get_requires_for_build_editable() == []

    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    seen = []
    monkeypatch.setattr(backend.build_meta, "build_wheel", lambda *_: seen.append(sys.path[-1]) or "x.whl")
    assert backend.build_wheel("dist") == "x.whl"
    assert seen == [str(other_python)]


def test_a_torch_in_the_build_environment_comes_first(backend: ModuleType, monkeypatch: pytest.MonkeyPatch):
    path = list(sys.path)
    monkeypatch.setattr(sys, "path", list(path))
    monkeypatch.setattr(backend.build_meta, "build_editable", lambda *_: "x.whl")
    backend.build_editable("dist")
    assert sys.path == path


def test_the_source_archive_holds_what_a_build_needs(tmp_path: Path):
    build = "import backend, sys; print(backend.build_sdist(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "build_support")},
        capture_output=True,
        text=True,
        check=True,
    )
    archive = done.stdout.splitlines()[-1]
    with tarfile.open(tmp_path / archive) as tar:
        packed = {name.split("/", 1)[1] for name in tar.getnames() if "/" in name}
    needed = {"setup.py", "pyproject.toml", "build_support/backend.py", "LICENSE", "README.md"}
    needed |= {p.relative_to(ROOT).as_posix() for p in (ROOT / "csrc").rglob("*") if p.is_file()}
    needed |= {p.relative_to(ROOT).as_posix() for p in (ROOT / "cnnkern").rglob("*.py")}
    assert needed - packed == set()
