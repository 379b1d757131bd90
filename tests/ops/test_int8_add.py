"""int8_add gives the integers of the reference, in the memory format of its first operand, on every ISA."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cnnkern import ops, reference
from tests.ops.cases import fenced
from tests.ops.elementwise import laid_out_variously
from tests.ops.integers import DTYPES, integers

SCALES = {"a_scale": 0.031, "b_scale": 0.017, "out_scale": 0.0245}
GRIDS = {**SCALES, "a_zero_point": 3, "b_zero_point": 99, "out_zero_point": 12}
ACTIVATIONS = [None, "relu"]


def all_pairs(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    limits = torch.iinfo(dtype)
    every = torch.arange(limits.min, limits.max + 1, dtype=dtype)
    return fenced(every.repeat_interleave(256), 77), fenced(every.repeat(256), 77)


def real_sum(a: Tensor, b: Tensor, grids: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """In float64 and in steps of the output, with the sum of magnitudes."""
    terms = [
        (q.double() - grids[f"{name}_zero_point"]) * (grids[f"{name}_scale"] / grids["out_scale"])
        for name, q in (("a", a), ("b", b))
    ]
    return terms[0] + terms[1], terms[0].abs() + terms[1].abs()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_sum_has_the_bits_of_the_reference(
    dtype: torch.dtype, activation: str | None, int8_isa: str
) -> None:
    a, b = all_pairs(dtype)
    for more in (
        {},
        {"a_scale": 2.0, "b_scale": 1.0, "out_scale": 4.0},
        {"a_scale": 1e20},
        {"out_scale": 1e20},
    ):
        options = GRIDS | more | {"activation": activation}
        y = ops.int8_add(a, b, **options)
        assert y.dtype == dtype
        assert torch.equal(y, reference.int8_add(a, b, **options))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_sum_is_rounded_once(dtype: torch.dtype, activation: str | None) -> None:
    """Half a step, and the three roundings to float32 of each term."""
    a, b = all_pairs(dtype)
    exact, magnitudes = real_sum(a, b, GRIDS)
    limits = torch.iinfo(dtype)
    exact = exact.relu() if activation else exact
    y = reference.int8_add(a, b, **GRIDS, activation=activation)
    error = (y - (exact + GRIDS["out_zero_point"]).clamp(limits.min, limits.max)).abs()
    assert (error <= 0.5 + magnitudes * 3 * 2.0**-24).all()


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 63, 64, 65, 1023, 1025])
def test_every_length(count: int, int8_isa: str) -> None:
    a, b = (fenced(integers((count,), torch.uint8), 77) for _ in range(2))
    assert torch.equal(ops.int8_add(a, b, **GRIDS), reference.int8_add(a, b, **GRIDS))


def test_has_the_memory_format_of_its_first_operand() -> None:
    for name, a in laid_out_variously(integers((900,), torch.uint8), 77):
        reversed_axes = integers(a.shape[::-1], torch.uint8).permute(tuple(range(a.dim()))[::-1])
        for b in (
            a,
            integers(a.shape, torch.uint8),
            reversed_axes,
            integers((), torch.uint8).expand(a.shape),
        ):
            y = ops.int8_add(a, b, **GRIDS)
            assert torch.equal(y, reference.int8_add(a, b, **GRIDS)), name
            traced = ops.int8_add(*(t.to("meta").as_strided(t.shape, t.stride()) for t in (a, b)), **GRIDS)
            assert y.stride() == torch.empty_like(a).stride() == traced.stride(), name


def test_is_shared_between_threads(threads: int) -> None:
    a, b = (integers((150_001,), torch.int8) for _ in range(2))
    assert torch.equal(ops.int8_add(a, b, **GRIDS), reference.int8_add(a, b, **GRIDS))


def test_compiles_without_a_break() -> None:
    a, b = (
        integers((2, 3, 10, 14), torch.uint8).contiguous(memory_format=torch.channels_last) for _ in range(2)
    )
    compiled = torch.compile(ops.int8_add, fullgraph=True, backend="aot_eager", dynamic=True)
    for activation in ACTIVATIONS:
        options = GRIDS | {"activation": activation}
        assert torch.equal(compiled(a, b, **options), ops.int8_add(a, b, **options))
