"""CUDA tensors find their kernels, or words that say why there are none: without a GPU, by fake tensors."""

import subprocess
import sys

import pytest
import torch
from torch._subclasses import FakeTensorMode

from cnnkern import _C, ops
from cnnkern.ops import arguments
from cnnkern.ops.conv2d import packed_length as conv2d_length
from cnnkern.ops.cp_conv2d import packed_length as cp_conv2d_length
from tests.cuda.platforms import Platform
from tests.ops.cases import Case

CASE = Case((2, 6, 9, 8), 10, (3, 2), groups=2, rank=14)
WITH_KERNELS = ("conv2d", "conv2d_backward", "conv2d_pack", "conv2d_packed", "cp_conv2d", "cp_conv2d_pack")
built = pytest.mark.skipif(not _C.build_info()["cuda"], reason="this build has no CUDA kernels")


@built
@pytest.mark.parametrize("name", [*WITH_KERNELS, "cp_conv2d_backward", "cp_conv2d_packed", "im2col"])
def test_kernels_are_registered(name: str) -> None:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"cnnkern::{name}", "CUDA")
    key = "AutocastCUDA"
    differentiable = not name.endswith(("_backward", "_pack"))
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"cnnkern::{name}", key) == differentiable


def fakes(dtype: torch.dtype) -> list[torch.Tensor | None]:
    return [
        None if a is None else torch.empty(a.shape, dtype=dtype, device="cuda") for a in CASE.cp_arguments()
    ]


@built
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_fake_kernels_know_cuda(dtype: torch.dtype) -> None:
    with FakeTensorMode():
        y = ops.cp_conv2d(*fakes(dtype), **CASE.options)
    assert (y.device.type, y.dtype, y.shape) == ("cuda", dtype, (2, 10, 7, 7))


@built
def test_float64_is_refused_on_cuda() -> None:
    message = "x: expected float32 or float16 or bfloat16, got torch.float64: no kernel for it"
    with FakeTensorMode(), pytest.raises(NotImplementedError, match=message):
        ops.cp_conv2d(*fakes(torch.float64), **CASE.options)


def test_a_build_without_kernels_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments, "_CUDA", False)
    message = r"x: expected a tensor on the CPU, got one on cuda:0: this build has none for CUDA \("
    with FakeTensorMode(), pytest.raises(NotImplementedError, match=message):
        ops.cp_conv2d(*fakes(torch.float32), **CASE.options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_lengths_are_those_of_the_fakes(emulated: Platform, dtype: torch.dtype) -> None:
    weight = torch.randn(CASE.weight_size, dtype=dtype)
    factors = [factor.to(dtype) for factor in CASE.cp_arguments()[1:5]]
    packed = emulated.operations.conv2d_pack(weight, 2), emulated.operations.cp_conv2d_pack(*factors, 2)
    with FakeTensorMode():
        like = torch.empty(1, dtype=dtype, device="cuda")
        lengths = (
            conv2d_length(CASE.weight_size, CASE.groups, like),
            cp_conv2d_length(CASE.factor_size, CASE.groups, like),
        )
    assert lengths == tuple(p.numel() for p in packed)


def test_make_gpu_says_that_there_is_no_gpu() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    done = subprocess.run([sys.executable, "-m", "bench.gpu"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("make gpu: no GPU here that torch")


def test_what_make_gpu_runs_can_be_imported() -> None:
    from bench import gpu_contests, graph_timing

    assert len({contest.key for contest in gpu_contests.all_contests()}) > 50
    assert graph_timing.interleave([], 1, torch.empty(0)) == {}
