"""ops.im2col is torch.nn.functional.unfold, bit by bit."""

import pytest
import torch
import torch.nn.functional as F

from cnnkern import ops, reference
from tests.ops.cases import CASES, LAYOUTS, SHARED, Case, laid_out


def geometry(case: Case) -> dict[str, tuple[int, int]]:
    return {"stride": case.stride, "padding": case.padding, "dilation": case.dilation}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_is_unfold(case: Case, layout: str, dtype: torch.dtype) -> None:
    x = torch.randn(case.x, dtype=dtype)
    y = ops.im2col(laid_out(x, layout), case.kernel, **geometry(case))
    assert y.is_contiguous()
    assert torch.equal(y, F.unfold(x, case.kernel, **geometry(case)))


@pytest.mark.parametrize("case", SHARED, ids=str)
def test_threads_change_nothing(case: Case, threads: int) -> None:
    x = torch.randn(case.x)
    y = ops.im2col(x, case.kernel, **geometry(case))
    assert torch.equal(y, reference.im2col(x, case.kernel, **geometry(case)))


@pytest.mark.parametrize("case", [case for case in CASES if case.x[0] and case not in SHARED][::3], ids=str)
def test_gradient_is_fold(case: Case) -> None:
    x = torch.randn(case.x, dtype=torch.float64, requires_grad=True)
    y = ops.im2col(x, case.kernel, **geometry(case))
    grad = torch.randn_like(y)
    (got,) = torch.autograd.grad(y, x, grad)
    (expected,) = torch.autograd.grad(F.unfold(x, case.kernel, **geometry(case)), x, grad)
    assert torch.equal(got, expected)
