"""params <- cpu, cuda <- bindings <- ops <- nn <- compression <- cli: no include and no import the other way.

The rules are data. A folder or module that no rule names is a violation too: a new one gets its place first.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# What a folder of csrc may include: of our own folders, and of <...> headers those that match in full.
STANDARD = r"[a-z_]+|sys/[a-z]+\.h|unistd\.h|(x86|imm|cpu)[a-z]*\.h|omp\.h"
FOLDERS = {
    "params": ({"params"}, r"cstdint|cstddef"),
    # Code for one instruction set: nothing inline that the linker could keep for another CPU.
    "cpu/isa": ({"params", "cpu"}, r"cstdint|cstddef|immintrin\.h|simde/x86/.*\.h"),
    "cpu": ({"params", "cpu"}, STANDARD),
    "cuda": ({"params", "cuda"}, rf"{STANDARD}|cuda.*|mma\.h"),
    "bindings": (
        {"params", "cpu", "cuda", "bindings"},
        rf"{STANDARD}|Python\.h|torch/csrc/stable/.*|torch/headeronly/.*|torch/csrc/inductor/aoti_torch/c/.*",
    ),
}
# The one file that speaks pybind11 instead, and asks torch for its version alone.
CONTROL = ({"cpu", "bindings"}, rf"{STANDARD}|pybind11/.*|torch/version\.h")
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(?:<([^>]+)>|"([^"]+)")', re.MULTILINE)


def include_violations(csrc: Path) -> Iterator[str]:
    """One line for every #include under csrc that the rules forbid."""
    for path in sorted(p for p in csrc.rglob("*") if p.suffix in {".cpp", ".h", ".inc", ".cu", ".cuh"}):
        name = path.relative_to(csrc).as_posix()
        rule = CONTROL if name == "bindings/control.cpp" else folder_rule(name)
        if rule is None:
            yield f"csrc/{name}: no rule names this folder"
            continue
        ours, outside = rule
        for angled, quoted in INCLUDE.findall(path.read_text(encoding="utf-8")):
            if angled and not re.fullmatch(outside, angled):
                yield f"csrc/{name}: <{angled}>"
            if quoted and folder_of(csrc, path, quoted) not in ours:
                yield f'csrc/{name}: "{quoted}"'


def folder_rule(name: str) -> tuple[set[str], str] | None:
    return next((rule for folder, rule in FOLDERS.items() if name.startswith(folder + "/")), None)


def folder_of(csrc: Path, path: Path, quoted: str) -> str | None:
    """The folder of csrc that an include in quotes leads to; like a compiler, first beside the includer."""
    for base in (path.parent, csrc):
        target = (base / quoted).resolve()
        if target.is_file() and target.is_relative_to(csrc.resolve()):
            return target.relative_to(csrc.resolve()).parts[0]
    return None


NUMERICS = {"decomposition", "pruning", "perforation", "quantization", "distillation", "folding"}
KERNELS = {"_ops", "_C"}
# What a module of cnnkern may import from the others; "" is the package's own __init__.
MODULES = {
    "reference": set(),
    "modules": set(),
    "text": set(),
    **{name: {"modules"} for name in NUMERICS},
    "quantization": {"folding", "modules", "text"},
    "ops": KERNELS,
    "nn": {"ops", "modules", *NUMERICS},
    "compression": {"nn", "ops", "modules", "text", *NUMERICS, *KERNELS},
    "cli_inputs": {"", "compression", *NUMERICS},
    "cli": {"", "cli_inputs", "compression", "nn", "ops", *NUMERICS, *KERNELS},
    "__main__": {"cli"},
    "": {"compression", "nn", "ops", "reference", *NUMERICS, *KERNELS},
}


def import_violations(root: Path) -> Iterator[str]:
    """One line for every import in cnnkern/ that the rules forbid."""
    dependencies = declared_dependencies(root)
    for path in sorted((root / "cnnkern").rglob("*.py")):
        name = path.relative_to(root).as_posix()
        parts = path.relative_to(root / "cnnkern").with_suffix("").parts
        module = "" if parts == ("__init__",) else parts[0]
        if module not in MODULES:
            yield f"{name}: no rule names this module"
            continue
        allowed = {"torch"} if module == "reference" else dependencies
        package = "cnnkern." + ".".join(parts[:-1]) if len(parts) > 1 else "cnnkern"
        for target in imported(ast.parse(path.read_text(encoding="utf-8")), package):
            top, *rest = target.split(".")
            if top == "cnnkern":
                inner = rest[0] if rest and (rest[0] in MODULES or rest[0] in KERNELS) else ""
                forbidden = inner not in MODULES[module] | {module}
            else:
                forbidden = top not in allowed and top not in sys.stdlib_module_names
            if forbidden:
                yield f"{name}: {target}"


def imported(tree: ast.AST, package: str) -> Iterator[str]:
    """The absolute names of everything a file imports, at whatever depth the statement stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


def declared_dependencies(root: Path) -> set[str]:
    """The packages that pyproject.toml requires of every user; those of extras are not to be relied on."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {re.match(r"[\w.]+", requirement).group() for requirement in project["dependencies"]}


def test_includes_go_one_way():
    assert list(include_violations(ROOT / "csrc")) == []


def test_imports_go_one_way():
    assert list(import_violations(ROOT)) == []


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("params/shape.h", "#include <vector>", "csrc/params/shape.h: <vector>"),
        ("params/shape.h", '#include "cpu/kernel.h"', 'csrc/params/shape.h: "cpu/kernel.h"'),
        (
            "cpu/gemm.cpp",
            "#include <torch/headeronly/macros/Macros.h>",
            "csrc/cpu/gemm.cpp: <torch/headeronly/",
        ),
        ("cpu/gemm.cpp", "  #  include <Python.h>", "csrc/cpu/gemm.cpp: <Python.h>"),
        ("cpu/gemm.cpp", '#include "../bindings/check.h"', 'csrc/cpu/gemm.cpp: "../bindings/check.h"'),
        ("cpu/isa/avx2.cpp", "#include <algorithm>", "csrc/cpu/isa/avx2.cpp: <algorithm>"),
        ("cuda/gemm.cu", "#include <ATen/ATen.h>", "csrc/cuda/gemm.cu: <ATen/ATen.h>"),
        (
            "bindings/conv2d.cpp",
            "#include <torch/extension.h>",
            "csrc/bindings/conv2d.cpp: <torch/extension.h>",
        ),
        ("bindings/conv2d.cpp", "#include <pybind11/stl.h>", "csrc/bindings/conv2d.cpp: <pybind11/stl.h>"),
        (
            "bindings/control.cpp",
            "#include <torch/library.h>",
            "csrc/bindings/control.cpp: <torch/library.h>",
        ),
        ("bindings/conv2d.cpp", '#include "nowhere.h"', 'csrc/bindings/conv2d.cpp: "nowhere.h"'),
        ("extra/new.cpp", "", "csrc/extra/new.cpp: no rule"),
    ],
)
def test_a_planted_include_is_found(tmp_path: Path, path: str, text: str, expected: str):
    plant(tmp_path, {"cpu/kernel.h": "#include <cstdint>", "bindings/check.h": "", path: text})
    (found,) = include_violations(tmp_path)
    assert found.startswith(expected)


def test_allowed_includes_pass(tmp_path: Path):
    plant(
        tmp_path,
        {
            "params/conv2d.h": "#include <cstdint>",
            "cpu/conv2d.h": '#include "params/conv2d.h"\n#include <cmath>',
            "cpu/isa/avx512.cpp": '#include "../conv2d.h"\n#include <immintrin.h>\n// #include <vector>',
            "bindings/conv2d.cpp": '#include "cpu/conv2d.h"\n#include <torch/csrc/stable/library.h>',
            "bindings/control.cpp": '#include "cpu/conv2d.h"\n#include <pybind11/pybind11.h>',
        },
    )
    assert list(include_violations(tmp_path)) == []


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        (
            "ops/conv2d.py",
            "from cnnkern.nn import Im2colConv2d",
            "cnnkern/ops/conv2d.py: cnnkern.nn.Im2colConv2d",
        ),
        ("ops/conv2d.py", "from .. import reference", "cnnkern/ops/conv2d.py: cnnkern.reference"),
        ("ops/conv2d.py", "import cnnkern", "cnnkern/ops/conv2d.py: cnnkern"),
        (
            "decomposition/cp.py",
            "def f():\n  from cnnkern import ops",
            "cnnkern/decomposition/cp.py: cnnkern.ops",
        ),
        ("decomposition/cp.py", "from ..nn import cp", "cnnkern/decomposition/cp.py: cnnkern.nn.cp"),
        ("reference/conv2d.py", "import tqdm", "cnnkern/reference/conv2d.py: tqdm"),
        ("reference/conv2d.py", "from cnnkern import _ops", "cnnkern/reference/conv2d.py: cnnkern._ops"),
        ("nn/cp.py", "from cnnkern.cli import main", "cnnkern/nn/cp.py: cnnkern.cli.main"),
        ("nn/cp.py", "import matplotlib.pyplot", "cnnkern/nn/cp.py: matplotlib.pyplot"),
        ("nn/cp.py", "from tests.house import anything", "cnnkern/nn/cp.py: tests.house.anything"),
        ("helpers.py", "", "cnnkern/helpers.py: no rule"),
    ],
)
def test_a_planted_import_is_found(tmp_path: Path, path: str, text: str, expected: str):
    plant(tmp_path, {f"cnnkern/{path}": text, "pyproject.toml": PLANTED_PROJECT})
    (found,) = import_violations(tmp_path)
    assert found.startswith(expected)


def test_allowed_imports_pass(tmp_path: Path):
    plant(
        tmp_path,
        {
            "cnnkern/__init__.py": "from cnnkern.nn import CPConv2d\nimport cnnkern._ops",
            "cnnkern/reference/conv2d.py": "import math, torch.nn.functional\nfrom .shapes import pair",
            "cnnkern/ops/conv2d.py": "import torch\nfrom cnnkern import _ops\nfrom .shapes import pair",
            "cnnkern/nn/cp.py": "from cnnkern import ops\nfrom ..decomposition import cp\nimport tqdm",
            "cnnkern/cli.py": "import cnnkern\nfrom cnnkern import _C",
            "pyproject.toml": PLANTED_PROJECT,
        },
    )
    assert list(import_violations(tmp_path)) == []


PLANTED_PROJECT = '[project]\ndependencies = ["torch>=2.11", "tqdm"]\n'


def plant(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
