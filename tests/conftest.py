"""For every test: reproducible values, each instruction set, thread counts, memory that starts as NaN."""

import ctypes
from collections.abc import Iterator

import pytest
import torch

from cnnkern import _C

# glibc's mallopt(M_PERTURB, value) fills new memory with the complement of value's low byte. All bits set is
# a NaN, so that an output element that no kernel writes, or scratch that is read before it is written, shows.
M_PERTURB, ALL_BITS_SET = -6, 0x100


def pytest_sessionstart() -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_PERTURB, ALL_BITS_SET)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=[name for name in _C.available_isas() if name != "avxvnni"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set that this CPU has kernels for float32 of, in force for the test."""
    yield from _in_force(request.param)


@pytest.fixture(params=_C.available_isas())
def int8_isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """The same for kernels of integers."""
    yield from _in_force(request.param)


def _in_force(name: str) -> Iterator[str]:
    before = _C.current_isa()
    _C.set_isa(name)
    yield name
    _C.set_isa(before)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """One thread and two."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)
