"""Each core of the matrix product, mma and wgmma: that it computes what can be computed with it, by its own
instructions alone, and that what cannot is computed by the other."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from cnnkern import _C, reference
from tests.cuda import test_conv2d, test_int8
from tests.cuda.cases import CASES, DEPTHWISE, LAYOUTS, with_dtype
from tests.cuda.conftest import ARITHMETICS, Arithmetic, tf32
from tests.cuda.platforms import Platform
from tests.ops.cases import Case, fenced, laid_out
from tests.ops.integers import DTYPES, conv2d_arguments, integers, varied_arguments

CORES = ("mma", "wgmma")
OTHER = dict(zip(CORES, reversed(CORES), strict=True))
ON_TENSOR_CORES = ("tf32", "float16", "bfloat16")


def runs(cases: list[Case]) -> list[tuple[str, Case]]:
    """Every case on wgmma, and some on mma, on which the operations' own tests run all of them."""
    return [*(("wgmma", case) for case in cases), *(("mma", case) for case in cases[::7])]


def choose(monkeypatch: pytest.MonkeyPatch, core: str, without: str = "", **emulator: int) -> None:
    """Have `core` compute, on an emulated GPU without the instructions of the core `without`."""
    monkeypatch.setenv("CNNKERN_CUDA_CORE", core)
    monkeypatch.setenv("EMULATOR_WITHOUT", without)
    for name, value in emulator.items():
        monkeypatch.setenv(f"EMULATOR_{name}", str(value))
    _C.set_cuda_core(core)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = _C.cuda_core()
    yield
    _C.set_cuda_core(before)


@pytest.fixture(params=CORES)
def core(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """In force, and the instructions of the other one are not to be had."""
    choose(monkeypatch, request.param, without=OTHER[request.param])
    return request.param


@pytest.fixture(params=ON_TENSOR_CORES)
def arithmetic(request: pytest.FixtureRequest) -> Iterator[Arithmetic]:
    chosen = ARITHMETICS[request.param]
    with tf32(chosen.tf32):
        yield chosen


def skip_without(core: str, on: Platform) -> None:
    if on.name == "cuda" and core == "wgmma" and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("this GPU has no wgmma")


def arguments(case: Case, layout: str, dtype: torch.dtype) -> list[Tensor | None]:
    x, weight, bias = with_dtype(case.conv2d_arguments(), dtype)
    return [laid_out(x, layout), fenced(weight), fenced(bias)]


def agrees(on: Platform, case: Case, layout: str, arithmetic: Arithmetic) -> None:
    given = arguments(case, layout, arithmetic.dtype)
    y = test_conv2d.convolve(on, case, *given)
    eps = arithmetic.operand_eps
    reference.assert_within_mixed_bound(y, reference.conv2d, eps, *given, **case.options)


def agrees_exactly(on: Platform, case: Case, layout: str, index: int) -> None:
    (x, *rest), options = varied_arguments(case, index)
    y = test_int8.convolve(on, case, laid_out(x, layout, fill=77), [x, *rest], options)
    expected = reference.int8_conv2d(x, *rest, **options)
    assert y.dtype == expected.dtype
    assert torch.equal(y, expected), str(case)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("core", "case"), runs(CASES), ids=str, indirect=["core"])
def test_a_convolution_agrees_with_the_reference(
    on: Platform, core: str, case: Case, layout: str, arithmetic: Arithmetic
) -> None:
    skip_without(core, on)
    agrees(on, case, layout, arithmetic)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("core", "case"), runs(test_int8.CASES), ids=str, indirect=["core"])
def test_a_convolution_of_integers_has_the_bits_of_the_reference(
    on: Platform, core: str, case: Case, layout: str
) -> None:
    skip_without(core, on)
    agrees_exactly(on, case, layout, test_int8.CASES.index(case) + 3 * LAYOUTS.index(layout))


# 128 x 128, 128 x 64 and 64 x 64, and sums that are split over blocks; both layouts of both kinds of output.
SIZES = [
    Case((1, 40, 7, 19), 132, (3, 3), padding=(1, 1)),
    Case((1, 12, 20, 13), 68, (2, 3), stride=(2, 1), groups=2),
    Case((1, 64, 9, 15), 64, (3, 1)),
]


@pytest.mark.parametrize("multiprocessors", [1, 6, 1000])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_way_of_cutting_agrees(
    emulated: Platform,
    monkeypatch: pytest.MonkeyPatch,
    layout: str,
    multiprocessors: int,
    arithmetic: Arithmetic,
) -> None:
    choose(monkeypatch, "wgmma", without="mma", MULTIPROCESSORS=multiprocessors)
    for case in SIZES:
        agrees(emulated, case, layout, arithmetic)


@pytest.mark.parametrize("multiprocessors", [1, 6, 1000])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_way_of_cutting_gives_the_same_integers(
    emulated: Platform, monkeypatch: pytest.MonkeyPatch, layout: str, multiprocessors: int
) -> None:
    choose(monkeypatch, "wgmma", without="mma", MULTIPROCESSORS=multiprocessors)
    for number, case in enumerate((Case((1, 160, 7, 19), 132, (3, 3), padding=(1, 1)), *SIZES)):
        for kind in range(2):  # u8 and s8, sums and quantized ones
            agrees_exactly(emulated, case, layout, 5 * kind + 2 * number)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (29, 64, 65), (15, 129, 70), (65, 256, 17), (0, 48, 5)], ids=str
)
def test_products_of_integers_are_exact(
    on: Platform, core: str, shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    """At random, and the extremes everywhere."""
    skip_without(core, on)
    (m, k, n), limits = shape, torch.iinfo(dtype)
    pairs = [(integers((m, k), dtype), integers((k, n), torch.int8))]
    pairs += [
        (torch.full((m, k), left, dtype=dtype), torch.full((k, n), -128, dtype=torch.int8))
        for left in (limits.min, limits.max)
    ]
    for a, b in pairs:
        expected = ((a.long() - 3) @ b.long()).int()
        assert all(torch.equal(y, expected) for y in test_int8.multiply(on, a, b, 3))


@pytest.mark.parametrize("quantized", [False, True], ids=["float", "quantized"])
def test_a_linear_layer_of_integers_has_the_bits_of_the_reference(
    on: Platform, core: str, quantized: bool
) -> None:
    skip_without(core, on)
    test_int8.test_linear_has_the_bits_of_the_reference(on, (2, 3, 48), quantized)


def test_the_other_core_is_not_what_computes(emulated: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its instructions a core can do nothing: the tests above do look at the one that they mean."""
    case, given = SIZES[2], arguments(SIZES[2], "contiguous", torch.bfloat16)
    for name in CORES:
        choose(monkeypatch, name, without=name)
        with pytest.raises(RuntimeError, match="on a GPU that has none"):
            test_conv2d.convolve(emulated, case, *given)


@pytest.mark.parametrize("capability", [80, 89, 100, 120])
def test_a_gpu_without_wgmma_computes_with_mma(
    emulated: Platform, monkeypatch: pytest.MonkeyPatch, capability: int
) -> None:
    choose(monkeypatch, "wgmma", without="wgmma", CAPABILITY=capability)
    agrees(emulated, SIZES[2], "channels_last", ARITHMETICS["bfloat16"])
    agrees_exactly(emulated, SIZES[2], "channels_last", 0)


@pytest.mark.parametrize("case", [SIZES[2], DEPTHWISE[0]], ids=str)
def test_float32_and_depthwise_go_past_both_cores(
    emulated: Platform, monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    given = arguments(case, "channels_last", torch.float32)
    results = []
    with tf32(False):
        for name in CORES:
            choose(monkeypatch, name, without=name)
            results.append(test_conv2d.convolve(emulated, case, *given))
    assert torch.equal(*results)


def test_the_choice_is_that_of_the_process() -> None:
    assert _C.cuda_cores() == list(CORES)
    for name in CORES:
        _C.set_cuda_core(name)
        assert _C.cuda_core() == name
    with pytest.raises(ValueError, match="name: expected one of mma, wgmma, got 'simt'"):
        _C.set_cuda_core("simt")
    assert _C.cuda_core() == CORES[-1]
    _C.set_cuda_core(None)
    assert _C.cuda_core() == os.environ.get("CNNKERN_CUDA_CORE", "mma")


@pytest.mark.parametrize("name", ["", *CORES, "simt"])
def test_the_environment_chooses_or_is_told_why_not(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from cnnkern import _C; print(_C.cuda_core())"],
        env={**os.environ, "CNNKERN_CUDA_CORE": name},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == (name if name in CORES else "mma")
    complaint = "CNNKERN_CUDA_CORE: expected one of mma, wgmma, got 'simt'; computing with mma"
    assert (complaint in done.stderr) == (name == "simt")


@pytest.mark.parametrize("case", SIZES, ids=str)
def test_the_same_bits_every_time(gpu: None, case: Case) -> None:
    on = Platform("cuda", torch.ops.cnnkern, "cuda")
    skip_without("wgmma", on)
    _C.set_cuda_core("wgmma")
    given = arguments(case, "channels_last", torch.bfloat16)
    expected = test_conv2d.convolve(on, case, *given)
    assert all(torch.equal(test_conv2d.convolve(on, case, *given), expected) for _ in range(5))
    tensors, options = conv2d_arguments(case, torch.uint8)
    assert torch.equal(
        test_int8.convolve(on, case, tensors[0], tensors, options), reference.int8_conv2d(*tensors, **options)
    )
