"""Where nvcc is, and what it is told: the .cu files need no torch, so that a CPU-only torch is enough."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DEFAULT_ARCHITECTURES = "80;90a"
HOW_TO_GET = (
    "put nvcc on PATH or set CUDA_HOME; without a CUDA toolkit, pip install nvidia-cuda-nvcc nvidia-nvvm "
    "nvidia-cuda-crt nvidia-cuda-cccl nvidia-cuda-runtime, all of one version"
)


@dataclass(frozen=True)
class Toolkit:
    """A CUDA toolkit of which we need nvcc, the headers and the static runtime."""

    home: Path
    version: str
    architectures: tuple[str, ...]  # such as "80" and "90a"

    @property
    def include(self) -> Path:
        return self.home / "include"

    @property
    def library_folders(self) -> list[Path]:
        return [folder for name in ("lib64", "lib") if (folder := self.home / name).is_dir()]

    @property
    def compiler(self) -> tuple[str, ...]:
        """nvcc with the options of every file; machine code for each architecture, PTX for later ones."""
        code = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in self.architectures]
        code.append(f"-gencode=arch=compute_{self.ptx},code=compute_{self.ptx}")
        options = ["-std=c++20", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden,-g0"]
        options += ["-DCNNKERN_SM90A"] * ("90a" in self.architectures)  # has instructions of its own
        return (str(self.home / "bin" / "nvcc"), *options, *code)

    @property
    def ptx(self) -> str:
        """The newest architecture whose PTX later ones run: those with a letter run nowhere else."""
        plain = [a for a in self.architectures if a.isdigit()]
        return max(plain or [a.rstrip("af") for a in self.architectures], key=int)

    @property
    def summary(self) -> str:
        machines = ", ".join(f"sm_{a}" for a in self.architectures)
        return f"CUDA {self.version}: {machines}, PTX of compute_{self.ptx}"


def find_toolkit(environment: Mapping[str, str] = os.environ) -> tuple[Toolkit | None, str]:
    """The toolkit to build with; else None, and why there is none.

    CNNKERN_CUDA=0 builds without, CNNKERN_CUDA=1 not without; CNNKERN_CUDA_ARCHS="80;90a" names what to
    compile for.

    Raises:
        RuntimeError: CNNKERN_CUDA=1, and no nvcc.
        ValueError: one of the variables has a value that means nothing.
    """
    asked = environment.get("CNNKERN_CUDA", "")
    if asked not in ("", "0", "1"):
        raise ValueError(f"CNNKERN_CUDA: expected 0 or 1, got {asked!r}")
    if asked == "0":
        return None, "CNNKERN_CUDA=0"
    home = _find_home(environment)
    if home is None:
        if asked == "1":
            raise RuntimeError(f"CNNKERN_CUDA=1, but there is no nvcc: {HOW_TO_GET}")
        return None, "no nvcc was found"
    return Toolkit(home, _version(home), _architectures(environment)), ""


def _find_home(environment: Mapping[str, str]) -> Path | None:
    for name in ("CUDA_HOME", "CUDA_PATH"):
        home = environment.get(name)
        if home and (Path(home) / "bin" / "nvcc").is_file():
            return Path(home)
    nvcc = shutil.which("nvcc", path=environment.get("PATH"))
    if nvcc is None:
        return None
    # It may be a script that calls the compiler elsewhere: the compiler says where it lives.
    said = subprocess.run([nvcc, "--dryrun", "-c", "x.cu"], capture_output=True, text=True, check=False)
    found = re.search(r"^#\$ TOP=(.*)$", said.stderr, re.MULTILINE)
    return Path(found.group(1)).resolve() if found else Path(nvcc).resolve().parent.parent


def _version(home: Path) -> str:
    said = subprocess.run([home / "bin" / "nvcc", "--version"], capture_output=True, text=True, check=True)
    return re.search(r"release ([\d.]+)", said.stdout).group(1)


def _architectures(environment: Mapping[str, str]) -> tuple[str, ...]:
    names = re.split(r"[;, ]+", environment.get("CNNKERN_CUDA_ARCHS") or DEFAULT_ARCHITECTURES)
    for name in names:
        if not re.fullmatch(r"\d{2,3}[af]?", name) or int(name.rstrip("af")) < 80:
            raise ValueError(
                f"CNNKERN_CUDA_ARCHS: expected compute capabilities of 80 and more such as "
                f"{DEFAULT_ARCHITECTURES!r}, got {name!r}"
            )
    return tuple(names)
