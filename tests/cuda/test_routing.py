"""CUDA tensors find their kernels, or words that say why there are none: without a GPU, by fake tensors."""

import subprocess
import sys

import pytest
import torch
from torch._subclasses import FakeTensor, FakeTensorMode

from cnnkern import _C, ColumnSparseConv2d, CPConv2d, Im2colConv2d, PerforatedConv2d, ops
from cnnkern.nn import convolution
from cnnkern.ops import arguments
from cnnkern.ops.column_sparse_conv2d import packed_length as column_sparse_conv2d_length
from cnnkern.ops.conv2d import packed_length as conv2d_length
from cnnkern.ops.cp_conv2d import packed_length as cp_conv2d_length
from cnnkern.ops.int8_arguments import packed_length as int8_length
from tests.cuda.gpu_calls import OPERATIONS
from tests.cuda.platforms import Platform
from tests.ops.cases import Case
from tests.ops.test_registration import REGISTERED

CASE = Case((2, 6, 9, 8), 10, (3, 2), groups=2, rank=14)
built = pytest.mark.skipif(not _C.build_info()["cuda"], reason="this build has no CUDA kernels")


def with_kernels(library: str, key: str) -> set[str]:
    """The operations of `library` that have a kernel for this dispatch key."""
    known = torch._C._dispatch_has_kernel_for_dispatch_key
    return {name for name in REGISTERED if known(f"{library}::{name}", key)}


def test_tests_on_the_gpu_know_every_operation_with_a_kernel(emulated: Platform) -> None:
    assert with_kernels(emulated.operations.name, "CPU") == set(OPERATIONS)


@built
def test_kernels_are_registered() -> None:
    assert with_kernels("cnnkern", "CUDA") == set(OPERATIONS)
    others = ("_backward", "_pack", "_sources", "_arrange")
    computing = {name for name in OPERATIONS if not name.endswith(others) and "gemm" not in name}
    assert with_kernels("cnnkern", "AutocastCUDA") & set(OPERATIONS) == computing


def fake(size: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(size, dtype=dtype, device="cuda")


def fakes(dtype: torch.dtype) -> list[torch.Tensor | None]:
    return [None if a is None else fake(a.shape, dtype) for a in CASE.cp_arguments()]


@built
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_fake_kernels_know_cuda(dtype: torch.dtype) -> None:
    with FakeTensorMode():
        x, *factors = fakes(dtype)
        columns, sparse = fake((2, 5), torch.int32), fake((10, 5), dtype)
        mask, weight = fake((7, 7), torch.bool), fake(CASE.weight_size, dtype)
        results = (
            ops.cp_conv2d(x, *factors, **CASE.options),
            ops.column_sparse_conv2d(x, sparse, columns, kernel_size=CASE.kernel, **CASE.options),
            ops.perforated_conv2d(x, weight, mask, **CASE.options),
        )
    for y in results:
        assert (y.device.type, y.dtype, y.shape) == ("cuda", dtype, (2, 10, 7, 7))


@built
def test_float64_is_refused_on_cuda() -> None:
    message = "x: expected float32 or float16 or bfloat16, got torch.float64: no kernel for it"
    with FakeTensorMode(), pytest.raises(NotImplementedError, match=message):
        ops.cp_conv2d(*fakes(torch.float64), **CASE.options)


def test_integers_without_kernels_are_refused_on_cuda() -> None:
    numbers = {"x_scale": 0.1, "x_zero_point": 3, "groups": 2}
    integers = {"dtype": torch.int8, "device": "cuda"}
    with FakeTensorMode():
        x, scale = torch.empty(2, 6, 9, 8, **integers), torch.empty(10, device="cuda")
        sparse, columns = torch.empty(10, 5, **integers), fake((2, 5), torch.int32)
        c, h, w, k = (fake(f.shape, torch.float32) for f in CASE.cp_arguments()[1:5])
        scale_c = torch.empty(CASE.rank, device="cuda")
        message = "x: expected a tensor on the CPU, got one on cuda:0: no kernel for it"
        with pytest.raises(NotImplementedError, match=message):
            ops.int8_column_sparse_conv2d(
                x, sparse, columns, weight_scale=scale, kernel_size=CASE.kernel, **numbers
            )
        with pytest.raises(NotImplementedError, match=message):
            ops.int8_cp_conv2d(
                *(x, c.to(torch.int8), h, w, k.to(torch.int8)),
                factor_c_scale=scale_c,
                factor_k_scale=scale,
                **numbers,
            )


def test_a_build_without_kernels_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments, "_CUDA", False)
    message = r"x: expected a tensor on the CPU, got one on cuda:0: this build has none for CUDA \("
    with FakeTensorMode(), pytest.raises(NotImplementedError, match=message):
        ops.cp_conv2d(*fakes(torch.float32), **CASE.options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_lengths_are_those_of_the_fakes(emulated: Platform, dtype: torch.dtype) -> None:
    weight = torch.randn(CASE.weight_size, dtype=dtype)
    factors = [factor.to(dtype) for factor in CASE.cp_arguments()[1:5]]
    _, sparse, columns, _ = CASE.column_sparse_arguments()
    sparse = sparse.to(dtype)
    packed = (
        emulated.operations.conv2d_pack(weight, 2),
        emulated.operations.cp_conv2d_pack(*factors, 2),
        emulated.operations.column_sparse_conv2d_pack(sparse, columns, list(CASE.kernel), 2),
        emulated.operations.column_sparse_conv2d_pack(sparse[:, :0], columns[:, :0], list(CASE.kernel), 2),
    )
    with FakeTensorMode():
        like = torch.empty(1, dtype=dtype, device="cuda")
        lengths = (
            conv2d_length(CASE.weight_size, CASE.groups, like),
            cp_conv2d_length(CASE.factor_size, CASE.groups, like),
            column_sparse_conv2d_length(CASE.channels, columns.shape[1], CASE.groups, like),
            column_sparse_conv2d_length(CASE.channels, 0, CASE.groups, like),
        )
    assert lengths == tuple(p.numel() for p in packed)


@pytest.mark.parametrize("size", [(10, 3, 3, 2), (10, 1, 3, 3)], ids=str)
def test_packed_lengths_of_integers_are_those_of_the_fakes(emulated: Platform, size: tuple) -> None:
    groups = 6 // size[1]
    weight = torch.zeros((12, *size[1:]), dtype=torch.int8)
    packed = emulated.operations.int8_conv2d_pack(weight, groups)
    rows = weight.flatten(1)
    matrix = emulated.operations.int8_gemm_pack(rows.t())
    with FakeTensorMode():
        like = torch.empty(1, dtype=torch.int8, device="cuda")
        assert int8_length(weight.shape, groups, like) == packed.numel()
        assert int8_length((*rows.shape, 1, 1), 1, like) == matrix.numel()


@built
def test_fake_kernels_of_integers_know_cuda() -> None:
    with FakeTensorMode():
        x = torch.empty(2, 6, 9, 8, dtype=torch.uint8, device="cuda")
        weight = torch.empty(10, 3, 3, 2, dtype=torch.int8, device="cuda")
        scale = torch.empty(10, device="cuda")
        numbers = {"x_scale": 0.1, "x_zero_point": 3, "weight_scale": scale}
        y = ops.int8_conv2d(x, weight, groups=2, **numbers)
        assert (y.device.type, y.dtype, y.shape) == ("cuda", torch.float32, (2, 10, 7, 7))
        b = torch.empty(8, 10, dtype=torch.int8, device="cuda")
        packed = ops.int8_gemm_pack(b)
        a = torch.empty(9, 8, dtype=torch.uint8, device="cuda")  # a view of x would ask for a device
        assert ops.int8_gemm(a, packed).shape == (9, 10)


def kind_of(value: object) -> type:
    return torch.Tensor if isinstance(value, FakeTensor) else type(value)


@built
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [3, 12, 16])
def test_layers_in_eval_mode_compute_in_the_dtype_of_autocast(
    monkeypatch: pytest.MonkeyPatch, channels: int, dtype: torch.dtype
) -> None:
    # a layer keeps no packed weights that are fake tensors: make it
    monkeypatch.setattr(convolution, "type", kind_of, raising=False)
    before = torch.is_autocast_enabled("cuda")
    layers = [
        Im2colConv2d(channels, 10, 3),
        CPConv2d(channels, 10, 3, rank=20),
        ColumnSparseConv2d(channels, 10, 3, columns=torch.arange(5)),
        PerforatedConv2d(channels, 10, 3, mask=torch.ones(7, 6, dtype=torch.bool)),
    ]
    with FakeTensorMode(), torch.no_grad():
        x = fake((2, channels, 9, 8), dtype)
        layers = [
            layer.eval()._apply(lambda t: fake(t.shape, dtype if t.is_floating_point() else t.dtype))
            for layer in layers
        ]
        torch.set_autocast_enabled("cuda", True)  # torch.autocast itself does nothing without a GPU
        try:
            for layer in layers:
                for _ in range(2):
                    y = layer.eval()(x)
                    assert (y.dtype, y.shape) == (torch.get_autocast_dtype("cuda"), (2, 10, 7, 6))
        finally:
            torch.set_autocast_enabled("cuda", before)


def test_make_gpu_says_that_there_is_no_gpu() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    done = subprocess.run([sys.executable, "-m", "bench.gpu"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("make gpu: no GPU here that torch")
