"""Where a call goes: to the instruction set in force, and past autograd where no gradient is asked for."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

from cnnkern import _C, ops
from tests.ops.cases import Case

CASE = Case((1, 24, 41, 37), 40, (3, 3), padding=(1, 1), rank=40)


def test_forcing_an_instruction_set_changes_what_the_operations_run() -> None:
    x, weight, bias = CASE.conv2d_arguments()
    results = []
    for isa in _C.available_isas():
        _C.set_isa(isa)
        assert _C.current_isa() == isa
        results.append(ops.conv2d(x, weight, bias))
    _C.set_isa(None)
    # sums of 216 products: with and without fused multiply-add they are rounded differently somewhere
    assert len(results) == 1 or not torch.equal(results[0], results[-1])


def test_the_int8_kernel_is_the_best_within_the_instruction_set() -> None:
    cpu = _C.cpu_features()
    best = {name: name for name in ("scalar", "avx2", "avxvnni")}
    best["avx512"] = "avx512vnni" if cpu["avx512_vnni"] else "avx2"
    for isa in _C.available_isas():
        _C.set_isa(isa)
        assert _C.int8_kernel() == best[isa] or "-DCNNKERN_SIMDE" in _C.build_info()["cxx_flags"]
    _C.set_isa(None)


def test_an_unknown_instruction_set_is_refused() -> None:
    before = _C.current_isa()
    with pytest.raises(ValueError, match="scalar"):
        _C.set_isa("mmx")
    assert _C.current_isa() == before


def files_run(call: Callable[[], Any]) -> set[str]:
    """The files whose Python functions `call` runs."""
    seen: set[str] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        seen.add(Path(frame.f_code.co_filename).name)

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return seen


ARGUMENTS = {
    "conv2d": (CASE.conv2d_arguments, {}),
    "cp_conv2d": (CASE.cp_arguments, {}),
    "column_sparse_conv2d": (CASE.column_sparse_arguments, {"kernel_size": CASE.kernel}),
}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("name", ARGUMENTS)
def test_no_autograd_where_no_gradient_is_asked_for(name: str, mode: Callable) -> None:
    make, options = ARGUMENTS[name]
    operation, arguments = getattr(ops, name), make()
    if mode is not torch.enable_grad:
        for argument in arguments:
            argument.requires_grad_(argument.is_floating_point())
    with mode():
        assert "autograd.py" not in files_run(lambda: operation(*arguments, **options))
        y = operation(*arguments, **options)
    assert not y.requires_grad
    assert y.grad_fn is None


@pytest.mark.parametrize("name", ARGUMENTS)
def test_packed_weights_have_no_gradient(name: str) -> None:
    x, *weights, bias = ARGUMENTS[name][0]()
    sparse = [list(CASE.kernel)] if name == "column_sparse_conv2d" else []
    packed = getattr(torch.ops.cnnkern, f"{name}_pack")(*weights, *sparse, 1)
    size = CASE.factor_size if name == "cp_conv2d" else CASE.weight_size
    last = {"conv2d": [False], "cp_conv2d": [], "column_sparse_conv2d": weights[1:]}[name]
    geometry = [*size, *CASE.stride, *CASE.padding, *CASE.dilation, 1]
    operation = getattr(torch.ops.cnnkern, f"{name}_packed")
    y = operation(x.requires_grad_(), packed, bias, geometry, *last)
    with pytest.raises(NotImplementedError, match=f"{name}_packed has no gradient: call cnnkern.ops.{name}"):
        y.sum().backward()
