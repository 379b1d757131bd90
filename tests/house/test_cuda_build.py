"""Where the build looks for nvcc, what it is told, and that only what has changed is compiled again."""

import os
import sys
from pathlib import Path

import pytest

from build_support.cuda_toolkit import find_toolkit
from build_support.objects import Object, compile_changed

NVCC = """#!/bin/sh
case "$1" in
--version) echo "Cuda compilation tools, release 13.0, V13.0.88" ;;
--dryrun) echo "#$ TOP={home}/bin/.." >&2 ;;
esac
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A toolkit that can say who it is."""
    nvcc = tmp_path / "toolkit" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text(NVCC.replace("{home}", str(tmp_path / "toolkit")))
    nvcc.chmod(0o755)
    return tmp_path / "toolkit"


def test_finds_the_toolkit_that_the_environment_names(home: Path) -> None:
    toolkit, _ = find_toolkit({"CUDA_HOME": str(home), "PATH": ""})
    assert toolkit.home == home
    assert toolkit.summary == "CUDA 13.0: sm_80, sm_90a, PTX of compute_80"


def test_a_script_on_the_path_leads_to_the_toolkit(home: Path, tmp_path: Path) -> None:
    script = tmp_path / "bin" / "nvcc"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {home}/bin/nvcc "$@"\n')
    script.chmod(0o755)
    toolkit, _ = find_toolkit({"PATH": f"{script.parent}:/usr/bin:/bin"})
    assert toolkit.home == home


def test_architectures_can_be_chosen(home: Path) -> None:
    toolkit, _ = find_toolkit({"CUDA_HOME": str(home), "CNNKERN_CUDA_ARCHS": "86 89"})
    assert toolkit.architectures == ("86", "89")
    assert "-gencode=arch=compute_89,code=compute_89" in toolkit.compiler


def test_without_nvcc_there_is_a_reason() -> None:
    assert find_toolkit({"PATH": ""}) == (None, "no nvcc was found")
    with pytest.raises(RuntimeError, match="CNNKERN_CUDA=1, but there is no nvcc: put nvcc on PATH"):
        find_toolkit({"PATH": "", "CNNKERN_CUDA": "1"})


def test_it_can_be_forbidden(home: Path) -> None:
    given = {"CUDA_HOME": str(home), "CNNKERN_CUDA": "0"}
    assert find_toolkit(given) == (None, "CNNKERN_CUDA=0")


@pytest.mark.parametrize(("name", "value"), [("CNNKERN_CUDA", "yes"), ("CNNKERN_CUDA_ARCHS", "sm_90")])
def test_values_that_mean_nothing_are_refused(home: Path, name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected .*{value}"):
        find_toolkit({"CUDA_HOME": str(home), name: value})


def test_only_what_has_changed_is_compiled_again(tmp_path: Path) -> None:
    header, log = tmp_path / "header.h", tmp_path / "log"
    sources = [tmp_path / "a.cu", tmp_path / "b.cu"]
    # A compiler that reads the header in a.cu alone, and says what it compiled.
    compiler = tmp_path / "compiler.py"
    compiler.write_text(
        "import sys, pathlib\n"
        "_, source, _, target, _, _, rule = sys.argv[-7:]\n"
        f"open({str(log)!r}, 'a').write(pathlib.Path(source).name + ' ')\n"
        "pathlib.Path(target).touch()\n"
        f"also = {str(header)!r} if source.endswith('a.cu') else ''\n"
        "pathlib.Path(rule).write_text(f'{target}: {source} {also}')\n"
    )
    for path in (header, *sources):
        path.write_text("")
        os.utime(path, (1, 1))

    def compiled(*command: str) -> list[str]:
        log.write_text("")
        compile_changed(
            [Object(s.with_suffix(".o"), s, (sys.executable, str(compiler), *command)) for s in sources]
        )
        return sorted(log.read_text().split())

    assert compiled() == ["a.cu", "b.cu"]
    assert compiled() == []
    header.write_text("changed")
    os.utime(header, (2**32, 2**32))
    assert compiled() == ["a.cu"]
