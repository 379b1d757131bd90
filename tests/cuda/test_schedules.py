"""The CUDA kernels under other schedules of their threads and under the sanitizers; and that each way of
running them finds what it is there for, in a copy of a kernel with a defect."""

import os
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cuda.cases import CASES, CUTS, DEPTHWISE
from tests.cuda.platforms import Platform
from tests.emulator.build import PLAIN, ROOT, SANITIZED, build_driver, build_library
from tests.ops.cases import Case

ARITHMETICS = ("float32", "tf32", "float16", "bfloat16")
INTEGERS = ("uint8", "int8")
FORWARD = (
    "conv2d",
    "cp_conv2d",
    "column_sparse_conv2d",
    "perforated_conv2d",
    "perforated_conv2d_one_mask",
    "im2col",
)
BACKWARD = (
    "conv2d_backward",
    "cp_conv2d_backward",
    "column_sparse_conv2d_backward",
    "perforated_conv2d_backward",
    "perforated_conv2d_backward_one_mask",
)
OF_INTEGERS = ("int8_conv2d", "int8_quantize", "int8_add", "int8_max_pool2d")
# Races are a matter of barriers, which all arithmetics share, and looking for them is slow.
SMALL = [Case((1, 8, 3, 5), 8, (3, 3), padding=(1, 1), rank=8)]
LOOKED_AT = {
    "forward": ([CUTS[-1]], ("bfloat16",), FORWARD),
    "depthwise": (DEPTHWISE[:1], ("bfloat16",), ("conv2d",)),
    "backward": (SMALL, ("bfloat16",), BACKWARD),
    "integers": ([CUTS[-1], replace(SMALL[0], groups=8)], ("uint8",), OF_INTEGERS),
}

ON_WGMMA = {"CNNKERN_CUDA_CORE": "wgmma", "EMULATOR_WITHOUT": "mma"}
SUPPRESSIONS = ROOT / "tests" / "emulator" / "thread_sanitizer.supp"


def lines(cases: list[Case], arithmetics: tuple[str, ...], operations: tuple[str, ...]) -> Iterator[str]:
    """What the driver reads."""
    for case, arithmetic, operation in product(cases, arithmetics, operations):
        for layout in ("contiguous", "channels_last"):
            numbers = [*case.x, case.channels, *case.kernel, *case.stride, *case.padding]
            numbers += [*case.dilation, case.groups, case.rank]
            yield " ".join(map(str, [operation, arithmetic, layout, *numbers]))


def drive(driver: Path, given: Iterable[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [driver],
        input="\n".join(given),
        env={**os.environ, "TSAN_OPTIONS": f"halt_on_error=1 suppressions={SUPPRESSIONS}", **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def driver() -> Path:
    return build_driver(*PLAIN)


def test_the_library_is_sanitized_where_that_is_asked_for(emulated: Platform) -> None:
    """`make test-emulated` asks for it; all the others are then looked into, bindings and all."""
    asked = os.environ.get("EMULATOR_SANITIZE") == "address"
    library = build_library().read_bytes()
    assert (b"__asan_init" in library) == (b"__ubsan_handle_type_mismatch" in library) == asked


@pytest.mark.parametrize("seed", range(4))
def test_shuffled_threads_and_eager_copies_change_nothing(driver: Path, seed: int) -> None:
    cases = [case for case in CASES if case.x[0]][seed::4]
    given = [*lines(cases, ARITHMETICS, FORWARD), *lines(cases, INTEGERS, OF_INTEGERS)]
    given += lines(DEPTHWISE[seed:5:4], ARITHMETICS, ("conv2d", "conv2d_backward"))
    given += lines(cases[::3], ARITHMETICS[seed : seed + 1], BACKWARD)
    done = drive(driver, given, EMULATOR_SEED=str(seed + 1), EMULATOR_EAGER=str(seed % 2))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("seed", range(2))
def test_shuffled_threads_change_nothing_for_wgmma(driver: Path, seed: int) -> None:
    cases = [case for case in CUTS if case.x[0]][seed::4]
    given = [*lines(cases, ARITHMETICS[1:], ("conv2d",)), *lines(cases, INTEGERS, ("int8_conv2d",))]
    settings = {"EMULATOR_SEED": str(seed + 1), "EMULATOR_EAGER": str(seed)}
    done = drive(driver, given, **ON_WGMMA, **settings)
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_no_races_in_wgmma() -> None:
    driver = build_driver(*SANITIZED["thread"])
    given = [*lines([CUTS[-1]], ("bfloat16",), ("conv2d",)), *lines([CUTS[-3]], ("uint8",), ("int8_conv2d",))]
    done = drive(driver, given, **ON_WGMMA, EMULATOR_EAGER="1")
    assert done.returncode == 0, done.stdout + done.stderr[:4000]


@pytest.mark.parametrize("multiprocessors", ["1", "300"])
@pytest.mark.parametrize("part", LOOKED_AT)
def test_there_are_no_races(part: str, multiprocessors: str) -> None:
    driver = build_driver(*SANITIZED["thread"])
    settings = {"EMULATOR_MULTIPROCESSORS": multiprocessors, "EMULATOR_EAGER": "1"}
    done = drive(driver, lines(*LOOKED_AT[part]), **settings)
    assert done.returncode == 0, done.stdout + done.stderr[:4000]


class Defect(NamedTuple):
    """What is wrong in csrc/cuda/gemm, the core of all kernels, and how that is found."""

    old: str
    new: str
    found_by: tuple[str, ...]
    options: tuple[str, ...] = PLAIN
    environment: tuple[tuple[str, str], ...] = ()
    file: str = "block_tile.cuh"


DEFECTS = {
    "copies that nobody waits for": Defect(
        "wait_for_copies<kSlots - 2>();", "wait_for_copies<kSlots>();", ("is -nan, not", "is nan, not")
    ),
    "a barrier that a warp passes by": Defect(
        "__syncthreads();  // this tile",
        "if (threadIdx.x < 32) __syncthreads();  // this tile",
        ("emulator: ",),
    ),
    "a missing barrier, by another schedule": Defect(
        "__syncthreads();  // this tile",
        "// this tile",
        (", not ",),
        environment=(("EMULATOR_SEED", "3"), ("EMULATOR_EAGER", "1")),
    ),
    "a missing barrier, as a race": Defect(
        "__syncthreads();  // this tile", "// this tile", ("data race",), SANITIZED["thread"]
    ),
    "a row beyond the last": Defect(
        "return index < rows ?",
        "return index <= rows ?",
        ("heap-buffer-overflow",),
        SANITIZED["address"],
        file="rows.cuh",
    ),
    "vectors wherever they lie": Defect(
        "if (output.vectors) {",
        "if (true) {",
        ("misaligned address",),
        SANITIZED["address"],
        file="output.cuh",
    ),
}
# What the products of a warpgroup ask for besides.
DEFECTS_OF_WARPGROUPS = {
    "operands that are not published": Defect("publish_shared_memory();", "", ("not published by a fence",)),
    "operands that one thread does not publish": Defect(
        "{ publish_shared_memory(); }",
        "{ if (threadIdx.x != 37) publish_shared_memory(); }",
        ("not published by a fence",),
    ),
    "products that nobody waits for": Defect("wait_for_products(sums);", "", ("under way",)),
    "products in no group": Defect("commit_products();", "", ("under way",)),
    "sums used before the products": Defect("begin_products(sums);", "", ("without wgmma.fence",)),
    "sums touched while products are under way": Defect(
        "commit_products();", "commit_products(), sums[0][0] = 1;", ("touched while it was under way",)
    ),
    "rows of another tile": Defect("8 * kRowBytes", "4 * kRowBytes", (", not ",)),
    "a tile without its first rows": Defect(
        "matrix_descriptor(b)", "matrix_descriptor(b + kRowBytes)", ("does not begin at 1024 bytes",)
    ),
    "warps that do not go together": Defect(
        "threadIdx.x) / 128", "threadIdx.x) / 64", ("did not start the same products",)
    ),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_is_found(name: str, tmp_path: Path) -> None:
    is_found(DEFECTS[name], tmp_path)


@pytest.mark.parametrize("name", DEFECTS_OF_WARPGROUPS)
def test_a_planted_defect_of_wgmma_is_found(name: str, tmp_path: Path) -> None:
    defect = DEFECTS_OF_WARPGROUPS[name]._replace(file="warpgroup_tile.cuh")
    is_found(defect, tmp_path, CNNKERN_CUDA_CORE="wgmma")


def is_found(defect: Defect, tmp_path: Path, **environment: str) -> None:
    """The defect, by one of the words that it is to be found by."""
    path = Path("cuda", "gemm", defect.file)
    text = (ROOT / "csrc" / path).read_text()
    assert text.count(defect.old) == 1
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(text.replace(defect.old, defect.new))
    driver = build_driver(*defect.options, changed=tmp_path)
    case = Case((1, 200, 5, 4), 30, (1, 1), rank=40)
    done = drive(driver, lines([case], ("bfloat16",), ("conv2d",)), **dict(defect.environment), **environment)
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert any(words in said for words in defect.found_by), said[:2000]
