"""Builds the two extension modules; everything else about the package is in pyproject.toml.

`cnnkern._ops` holds the operations, on the LibTorch stable ABI: one build serves every torch from 2.11 on.
`cnnkern._C` is a small pybind11 module of facts and controls that handles no tensor.

Two variants exist for tests, chosen by the environment:
CNNKERN_SANITIZE=address,undefined  compiles with these sanitizers;
CNNKERN_SIMDE=DIR                   compiles the AVX-512 sources through the SIMDe headers in DIR, so that
                                    they run on a CPU without AVX-512.
They have no CUDA kernels, which the tests look at in other ways. Else these are built where nvcc is found:
build_support/cuda_toolkit.py.
"""

import os
import platform
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT / "build_support"))

from cuda_toolkit import find_toolkit  # noqa: E402
from objects import Object, compile_changed  # noqa: E402

SANITIZE = os.environ.get("CNNKERN_SANITIZE", "")
SIMDE = os.environ.get("CNNKERN_SIMDE", "")
VARIANT = "-".join(SANITIZE.split(",") * bool(SANITIZE) + ["simde"] * bool(SIMDE)) or "native"
CONTROL = "csrc/bindings/control.cpp"
X86_ISAS = ("avx2", "avx512")
TOOLKIT, CUDA_REASON = find_toolkit() if VARIANT == "native" else (None, "a variant for tests of the CPU")
OLDEST_PYTHON = "0x030B0000"
OLDEST_TORCH = "0x020b000000000000"


def sources(*patterns: str) -> list[str]:
    """The C++ files of csrc that match, relative to the root; `cnnkern._C`'s own is not among them."""
    found = {str(p.relative_to(ROOT)) for pattern in patterns for p in (ROOT / "csrc").glob(pattern)}
    return sorted(found - {CONTROL})


def sanitizer_flags() -> list[str]:
    return [f"-fsanitize={SANITIZE}"] if SANITIZE else []


def compile_flags() -> list[str]:
    flags = ["-std=c++20", "-O3", "-fvisibility=hidden", "-fopenmp", "-g0"]
    flags += ["-Wno-maybe-uninitialized"]  # gcc 12 says it of its own AVX-512 headers
    if SANITIZE:
        flags += [*sanitizer_flags(), "-fno-sanitize-recover=undefined"]
        flags += ["-O1", "-g1", "-fno-omit-frame-pointer"]
    if SIMDE:
        flags += ["-DCNNKERN_SIMDE", f"-I{SIMDE}"]
    return flags


def extensions() -> list[Extension]:
    from torch.utils.cpp_extension import CppExtension

    common = {
        "include_dirs": [str(ROOT / "csrc")],
        "depends": [str(p) for pattern in ("*.h", "*.inc") for p in (ROOT / "csrc").rglob(pattern)],
        "extra_compile_args": compile_flags(),
        "extra_link_args": ["-fopenmp", "-Wl,--as-needed", *sanitizer_flags()],
    }
    operations = CppExtension(
        "cnnkern._ops",
        sources("bindings/*.cpp", "cpu/**/*.cpp", *["bindings/cuda/*.cpp"] * bool(TOOLKIT)),
        define_macros=[("TORCH_TARGET_VERSION", OLDEST_TORCH)],
        py_limited_api=True,
        **deepcopy(common),
    )
    if TOOLKIT:
        add_cuda(operations)
    control = CppExtension("cnnkern._C", [CONTROL], define_macros=control_macros(), **deepcopy(common))
    return [operations, control]


def add_cuda(extension: Extension) -> None:
    """The compiler's headers, and the runtime as a part of the module that nobody else sees."""
    extension.include_dirs.append(str(TOOLKIT.include))
    extension.library_dirs += map(str, TOOLKIT.library_folders)
    extension.extra_link_args += ["-lcudart_static", "-lpthread", "-ldl", "-lrt", "-Wl,--exclude-libs,ALL"]
    # A CUDA build of torch has its streams in a library that only libtorch names.
    extension.extra_link_args += ["-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", "-Wl,--as-needed"]


def cuda_objects(folder: Path) -> list[Object]:
    """The object files of the CUDA kernels."""
    command = (*TOOLKIT.compiler, f"-I{ROOT / 'csrc'}")
    return [
        Object(folder / Path(source).with_suffix(".o"), ROOT / source, command)
        for source in sources("cuda/**/*.cu")
    ]


def control_macros() -> list[tuple[str, str]]:
    """What `cnnkern._C.build_info()` reports and only the build knows."""
    return [
        ("CNNKERN_CXX_FLAGS", quoted(" ".join(compile_flags()))),
        ("CNNKERN_CUDA", quoted(TOOLKIT.summary if TOOLKIT else "")),
        ("CNNKERN_CUDA_REASON", quoted(CUDA_REASON)),
    ]


def quoted(text: str) -> str:
    """A C string literal."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def build_extension_command():
    import torch.utils.cpp_extension as cpp_extension

    cpp_extension.min_supported_cpython = OLDEST_PYTHON

    class BuildExtension(cpp_extension.BuildExtension):
        """torch's command, with object files that outlive the call and a summary at the end."""

        def finalize_options(self) -> None:
            super().finalize_options()
            # An editable build would get a temporary folder and compile everything each time.
            self.build_temp = str(ROOT / "build" / f"objects-{VARIANT}-{sys.implementation.cache_tag}")

        def build_extensions(self) -> None:
            version = self.distribution.get_version()
            for extension in self.extensions:
                if extension.name == "cnnkern._C":
                    extension.define_macros.append(("CNNKERN_VERSION", quoted(version)))
                elif TOOLKIT:
                    objects = cuda_objects(Path(self.build_temp))
                    compile_changed(objects)
                    extension.extra_objects += [str(o.path) for o in objects]
            if not self.use_ninja:
                os.environ["TORCH_NO_COMPILER_WRAPPER"] = "1"  # torch wraps and unwraps one shared command
                self.compiler.compile = in_threads(self.compiler.compile)
            super().build_extensions()
            print(summary(version, [e.name for e in self.extensions]), flush=True)

    return BuildExtension


def in_threads(compile_sources):
    """A compiler's `compile`, one source a call in as many threads as there are CPUs, or as MAX_JOBS says."""

    def compile_in_threads(sources: list[str], **settings) -> list[str]:
        with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))) as pool:
            objects = pool.map(lambda source: compile_sources([source], **settings), sources)
            return [path for paths in objects for path in paths]

    return compile_in_threads


def summary(version: str, modules: list[str]) -> str:
    import torch

    isas = ["scalar"]
    skipped = {} if TOOLKIT else {"CUDA": CUDA_REASON}
    if platform.machine() in ("x86_64", "AMD64"):
        isas += [isa for isa in X86_ISAS if any(isa in s for s in sources("cpu/**/*.cpp"))]
    else:
        skipped["AVX2, AVX-512"] = f"the CPU is {platform.machine()}; it gets the scalar kernels"
    lines = [f"cnnkern {version} against torch {torch.__version__} ({VARIANT})"]
    lines += [f"  built     {', '.join(modules)}; CPU kernels: {', '.join(isas)}"]
    if TOOLKIT:
        lines += [f"  built     {TOOLKIT.summary}"]
    lines += [f"  left out  {what}: {why}" for what, why in skipped.items()]
    return "\n".join(lines)


# A ninja installed in this environment counts even where the environment is not activated.
os.environ["PATH"] = sysconfig.get_path("scripts") + os.pathsep + os.environ.get("PATH", "")

# Variants must not share the folder that a wheel is collected in.
options = {} if VARIANT == "native" else {"build": {"build_base": f"build/wheel-{VARIANT}"}}
if "egg_info" in sys.argv or "dist_info" in sys.argv or "sdist" in sys.argv:
    setup(options=options)  # metadata and source archives need no torch
else:
    setup(options=options, ext_modules=extensions(), cmdclass={"build_ext": build_extension_command()})
