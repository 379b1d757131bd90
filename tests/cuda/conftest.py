"""For the tests of CUDA kernels: each platform, and each kind of arithmetic."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
import torch

from tests.cuda.platforms import Platform, platform


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    before = torch.backends.cudnn.conv.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = "tf32" if allowed else "ieee"
    yield
    torch.backends.cudnn.conv.fp32_precision = before


class Arithmetic(NamedTuple):
    """`operand_eps`: the relative spacing of the numbers that go into products."""

    dtype: torch.dtype
    tf32: bool
    operand_eps: float


ARITHMETICS = {
    "float32": Arithmetic(torch.float32, False, 0.0),
    "tf32": Arithmetic(torch.float32, True, 2.0**-10),
    "float16": Arithmetic(torch.float16, True, torch.finfo(torch.float16).eps),
    "bfloat16": Arithmetic(torch.bfloat16, True, torch.finfo(torch.bfloat16).eps),
}


@pytest.fixture(scope="session", params=["emulated", "cuda"])
def on(request: pytest.FixtureRequest) -> Platform:
    return platform(request.param)


@pytest.fixture(params=ARITHMETICS)
def arithmetic(request: pytest.FixtureRequest) -> Iterator[Arithmetic]:
    """Each kind, with torch's setting of TF32 in force."""
    chosen = ARITHMETICS[request.param]
    with tf32(chosen.tf32):
        yield chosen


@pytest.fixture(scope="session", params=["emulated"])
def emulated(request: pytest.FixtureRequest) -> Platform:
    """For what only the emulator can be told, such as the size of the GPU."""
    return platform(request.param)


@pytest.fixture
def gpu() -> None:
    """For tests that mean nothing without one."""
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU that torch can use")
