"""Compiles the CUDA kernels as C++ against the emulator: with their bindings as a library for torch, and
without as a program that needs neither torch nor Python, which is what the sanitizers can look into."""

import fcntl
import functools
import os
import subprocess
import sysconfig
from collections.abc import Iterable
from pathlib import Path

import torch

import cnnkern.ops  # noqa: F401  declares the operations
from build_support.objects import Object, compile_changed

ROOT = Path(__file__).parents[2]
EMULATOR = Path(__file__).parent
BUILDS = ROOT / "build" / "emulated"
OPTIONS = ("-std=c++20", "-fno-strict-aliasing", "-fPIC", "-fvisibility=hidden", "-Wno-unknown-pragmas")
PLAIN = ("-O2",)
SANITIZED = {
    "address": (
        "-O1",
        "-g1",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=undefined",
        "-fno-omit-frame-pointer",
    ),
    "thread": ("-O1", "-g1", "-fsanitize=thread"),
}
LIBRARY = "cnnkern_emulated"


def folder_of(*options: str) -> Path:
    """Where the object files go that are compiled with these options."""
    return BUILDS / "".join(options).replace("=", "-").strip("-")


def compiler(*options: str, first: Iterable[Path] = ()) -> tuple[str, ...]:
    """g++ for .cu and .cpp files; headers in the folders `first` stand before the project's own."""
    folders = [*first, EMULATOR, ROOT / "csrc"]
    return (os.environ.get("CXX", "g++"), *OPTIONS, *options, *(f"-I{folder}" for folder in folders))


def kernel_objects(folder: Path, command: tuple[str, ...]) -> list[Object]:
    """The emulator and all kernels."""
    sources = [*sorted(EMULATOR.glob("*.cpp")), *sorted((ROOT / "csrc" / "cuda").glob("**/*.cu"))]
    return [
        Object(folder / source.relative_to(ROOT).with_suffix(".o"), source, (*command, "-x", "c++"))
        for source in sources
        if source.name != "driver.cpp"
    ]


def link(target: Path, command: tuple[str, ...], objects: list[Object], *libraries: str) -> Path:
    """Links `target` where an object is newer; one process of the tests at a time."""
    BUILDS.mkdir(parents=True, exist_ok=True)
    with open(BUILDS / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        compile_changed(objects)
        newest = max(o.path.stat().st_mtime_ns for o in objects)
        if not target.exists() or target.stat().st_mtime_ns < newest:
            parts = [str(o.path) for o in objects]
            subprocess.run([*command, *parts, "-o", str(target), *libraries], check=True)
    return target


def build_library() -> Path:
    """The kernels and their bindings. EMULATOR_SANITIZE=address has them sanitized; the runtime of that must
    have been loaded before Python."""
    asked = os.environ.get("EMULATOR_SANITIZE")
    options = SANITIZED[asked] if asked else PLAIN
    folder = folder_of(*options)
    packages = Path(torch.__file__).parent
    includes = [packages / "include", packages / "include" / "torch" / "csrc" / "api" / "include"]
    includes.append(Path(sysconfig.get_path("include")))
    macros = ["CNNKERN_EMULATED", "Py_LIMITED_API=0x030B0000", "TORCH_TARGET_VERSION=0x020b000000000000"]
    of_bindings = options if asked else ("-O1",)
    bindings = (*compiler(*of_bindings), *(f"-isystem{i}" for i in includes), *(f"-D{m}" for m in macros))
    shared = [ROOT / "csrc/bindings" / f"{name}.cpp" for name in ("tensors", "int8_arguments")]
    sources = [*shared, *sorted((ROOT / "csrc/bindings/cuda").glob("*.cpp"))]
    objects = kernel_objects(folder, compiler(*options))
    objects += [
        Object(folder / source.relative_to(ROOT).with_suffix(".o"), source, bindings) for source in sources
    ]
    torch_libraries = (f"-L{packages / 'lib'}", "-ltorch", "-ltorch_cpu")
    return link(folder / "emulated.so", (compiler()[0], "-shared", *options), objects, *torch_libraries)


@functools.cache
def load_library() -> torch._ops._OpNamespace:
    """`torch.ops.cnnkern_emulated`: the operations that have CUDA kernels, emulated, for CPU tensors."""
    target = build_library()
    _declare_operations()
    torch.ops.load_library(target)
    return getattr(torch.ops, LIBRARY)


_declared: list[torch.library.Library] = []  # a library ends with its object


def _declare_operations() -> None:
    """The schemas of the shipped operations once more, under the other name."""
    library = torch.library.Library(LIBRARY, "DEF")
    for schema in torch._C._jit_get_all_schemas():
        if schema.name.startswith("cnnkern::"):
            library.define(str(schema).removeprefix("cnnkern::"))
    _declared.append(library)


def build_driver(*options: str, changed: Path | None = None) -> Path:
    """The program of driver.cpp, compiled with `options`.

    With `changed`, a folder of headers that stand before the project's own, the program is built there, and
    the dense convolution in bfloat16 is the only kernel that knows of them.
    """
    command = compiler(*options)
    folder = folder_of(*options)
    objects = kernel_objects(folder, command)
    objects.append(Object(folder / "driver.o", EMULATOR / "driver.cpp", (*command, "-x", "c++")))
    if changed:
        kernel = ROOT / "csrc/cuda/conv2d/bfloat16.cu"
        other = Object(changed / "changed.o", kernel, (*compiler(*options, first=[changed]), "-x", "c++"))
        objects = [other if o.source == kernel else o for o in objects]
    return link((changed or folder) / "driver", command, objects)


if __name__ == "__main__":
    build_library()
