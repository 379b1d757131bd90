"""What the compiler made of the CUDA kernels, as far as it can be read without a GPU."""

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import cnnkern
from cnnkern import _C

# Where the packages that requirements-dev.txt names put the tools.
PACKAGED = Path(sysconfig.get_path("purelib")) / "nvidia" / "cu13" / "bin"
REGISTERS = 65536  # of a multiprocessor
CP = ("cp_forward", "cp_backward_factor", "cp_backward_taps")
WGMMA = {"wgmma k128x128": 256, "wgmma k128x64": 256, "wgmma k64x64": 128}  # their threads
THREADS = {"k128x128": 256, "k128x64": 256, "k64x64": 128, "int8 k64x64": 128, "depthwise": 256}
THREADS |= dict.fromkeys(CP, 256) | WGMMA
# Blocks of a kernel that a multiprocessor is meant to hold, by its part of the registers.
BLOCKS = {"k128x128": 1, "k128x64": 2, "k64x64": 4, "int8 k64x64": 3, "depthwise": 3}
BLOCKS |= dict.fromkeys(CP, 1) | {"cp_forward": 2}
BLOCKS |= {"wgmma k128x128": 2, "wgmma k128x64": 2, "wgmma k64x64": 4}
PRODUCT = r"\dmultiply(?:_kept|_kept_pixels)?I"  # in the names of kernels


class Kernel(NamedTuple):
    name: str
    registers: int
    stack: int
    local: int

    @property
    def family(self) -> str | None:
        """One of BLOCKS; None for kernels of one thread an element."""
        for name in (*CP, "depthwise"):
            if f"{len(name)}{name}I" in self.name:
                return name
        tile = re.search(
            r"\dmultiply(?:_kept|_kept_pixels)?INS0_\d+(Block|Warpgroup)TileI.*?MathELi(\d+)ELi(\d+)E",
            self.name,
        )
        if not tile:
            return None
        size = f"k{tile.group(2)}x{tile.group(3)}"
        if tile.group(1) == "Warpgroup":
            return f"wgmma {size}"
        return f"int8 {size}" if "nt8Math" in self.name and f"int8 {size}" in BLOCKS else size


def read(*options: str) -> str:
    if not _C.build_info()["cuda"]:
        pytest.skip("this build has no CUDA kernels")
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), str(PACKAGED)])
    tool = shutil.which("cuobjdump", path=path)
    if not (tool and shutil.which("nvdisasm", path=path)):
        pytest.skip("no cuobjdump and nvdisasm: nvidia-cuda-cuobjdump, nvidia-cuda-nvdisasm")
    command = [tool, *options, cnnkern._ops.__file__]
    environment = {**os.environ, "PATH": path}  # where cuobjdump looks for nvdisasm
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


@pytest.fixture(scope="module")
def kernels() -> list[Kernel]:
    used = r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)"
    found = re.findall(used, read("--dump-resource-usage"))
    return [Kernel(name, *map(int, numbers)) for name, *numbers in found]


def test_every_kernel_is_there(kernels: list[Kernel]) -> None:
    left_out = set() if "sm_90a" in _C.build_info()["cuda_toolkit"] else set(WGMMA)
    assert {kernel.family for kernel in kernels} == {*BLOCKS, None} - left_out


def test_nothing_is_in_local_memory(kernels: list[Kernel]) -> None:
    assert [kernel for kernel in kernels if kernel.stack or kernel.local] == []


def test_the_planned_blocks_have_registers_enough(kernels: list[Kernel]) -> None:
    for kernel in kernels:
        if kernel.family:
            block = kernel.registers * THREADS[kernel.family]
            assert block * BLOCKS[kernel.family] <= REGISTERS, kernel


def functions(assembly: str) -> Iterator[tuple[str, str, str]]:
    """GPUs, names and bodies."""
    for of_gpu in assembly.split("code for ")[1:]:
        gpu, _, rest = of_gpu.partition("\n")
        for text in rest.split("Function : ")[1:]:
            name, _, body = text.partition("\n")
            yield gpu.strip(), name.strip(), body


@pytest.fixture(scope="module")
def assembly() -> str:
    return read("--dump-sass")


def test_products_are_done_by_the_instructions_meant_for_them(assembly: str) -> None:
    counted = 0
    for _, name, body in functions(assembly):
        if not (re.search(PRODUCT, name) or any(f"{kernel}I" in name for kernel in CP)):
            continue
        if "WarpgroupTile" in name:
            continue
        counted += 1
        integers = "int8Math" in name or "Int8Math" in name
        assert ("IMMA" in body) == integers, name
        assert ("HMMA" in body) == (not integers and "Float32Math" not in name), name
        assert "Float32Math" not in name or "FFMA" in body, name
        # both operands: two bytes are too few for an asynchronous copy
        gathered = "12GatheredRowsES5_" in name or "multiply_kept_pixels" in name
        assert "LDGSTS" in body or gathered, f"{name}: no asynchronous copies"
        assert "LDSM" in body or "Float32Math" in name, f"{name}: no ldmatrix"
    assert counted


def test_warpgroups_work_on_while_the_next_tiles_are_fetched(assembly: str) -> None:
    """One wait for four instructions: where the compiler does not see through the use of their registers, it
    puts one behind each. Code for other GPUs than sm_90a has none of it."""
    for gpu, name, body in functions(assembly):
        if "WarpgroupTile" not in name:
            continue
        products = re.findall(r"\b([HI])GMMA\.64x\d+x\d+", body)
        if gpu != "sm_90a":
            assert not products, f"{name} of {gpu}"
            continue
        integers = "int8Math" in name or "Int8Math" in name
        assert set(products) == {"I" if integers else "H"}, name
        assert len(products) == 4 * body.count("WARPGROUP.DEPBAR"), f"{name}: products one after the other"
        assert body.index("FENCE.VIEW.ASYNC") < body.index("GMMA"), f"{name}: operands are not published"
        assert "LDGSTS" in body, f"{name}: no asynchronous copies"
        assert not {"HMMA", "IMMA", "STL", "LDL"} & set(re.findall(r"\b[A-Z]+\b", body)), name
