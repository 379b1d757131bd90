"""The CUDA kernels of int8_quantize and int8_add give the integers of the reference, in any memory format."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cnnkern import reference
from tests.cuda.platforms import Platform
from tests.ops.elementwise import laid_out_variously
from tests.ops.integers import DTYPES, integers
from tests.ops.test_int8_add import ACTIVATIONS, GRIDS, all_pairs
from tests.ops.test_int8_quantize import SCALE, ZERO_POINT, numbers


def add(on: Platform, a: Tensor, b: Tensor, activation: str | None = None) -> Tensor:
    names = (f"{of}_{number}" for of in ("a", "b", "out") for number in ("scale", "zero_point"))
    given: list[Any] = [GRIDS[name] for name in names]
    return on.operations.int8_add(on.take(a), on.take(b), *given, activation == "relu").cpu()


# one below and above the 4 elements of a thread and the 256 threads of a block
@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 1023, 1025, 2111])
@pytest.mark.parametrize("dtype", DTYPES)
def test_quantizes_with_the_bits_of_the_reference(on: Platform, dtype: torch.dtype, count: int) -> None:
    memory = numbers(count + 1)
    for x in (memory[:count], memory[1:]):  # the second is not aligned to anything
        y = on.operations.int8_quantize(on.take(x), SCALE, ZERO_POINT, dtype).cpu()
        assert torch.equal(y, reference.int8_quantize(x, SCALE, ZERO_POINT, dtype))


def test_quantizes_ties_to_even(on: Platform) -> None:
    halves = torch.arange(-20, 20) / 2
    y = on.operations.int8_quantize(on.take(halves * 0.25), 0.25, 21, torch.int8).cpu()
    assert torch.equal(y.float() - 21, halves.round())


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_sum_has_the_bits_of_the_reference(
    on: Platform, dtype: torch.dtype, activation: str | None
) -> None:
    a, b = all_pairs(dtype)  # not aligned to anything
    expected = reference.int8_add(a, b, **GRIDS, activation=activation)
    assert torch.equal(add(on, a, b, activation), expected)
    assert torch.equal(add(on, a.clone(), b.clone(), activation), expected)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 4095, 4097])
def test_adds_every_length(on: Platform, count: int) -> None:
    a, b = (integers((count,), torch.uint8) for _ in range(2))
    assert torch.equal(add(on, a, b), reference.int8_add(a, b, **GRIDS))


def test_memory_formats_stay(on: Platform) -> None:
    for name, x in laid_out_variously(numbers(900), torch.nan):
        y = on.operations.int8_quantize(on.take(x), SCALE, ZERO_POINT, torch.uint8)
        assert y.stride() == torch.empty_like(x).stride(), name
        assert torch.equal(y.cpu(), reference.int8_quantize(x, SCALE, ZERO_POINT)), name
    for name, a in laid_out_variously(integers((900,), torch.uint8), 77):
        b = integers(a.shape, torch.uint8)
        y = add(on, a, b)
        assert y.stride() == torch.empty_like(a).stride(), name
        assert torch.equal(y, reference.int8_add(a, b, **GRIDS)), name


def test_wrong_arguments_are_refused(on: Platform) -> None:
    a = on.take(torch.zeros(2, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="x: expected float32"):
        on.operations.int8_quantize(a, 0.1, 0, torch.uint8)
    with pytest.raises(ValueError, match="b: expected size 2"):
        on.operations.int8_add(a, a[:1], 0.1, 0, 0.1, 0, 0.1, 0, False)
