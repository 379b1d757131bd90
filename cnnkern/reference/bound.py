"""How far a kernel may be from the oracle: the rounding-error bound of a sum of products.

A sum of `depth` products in floating point, in any order and with any blocking, differs from the exact one
by at most γ_depth·Σ|a||b| with γ_n = n·u/(1 − n·u) and u = eps/2 (Higham, Accuracy and Stability of
Numerical Algorithms, 2002, section 3.1). Nested sums add their depths. Here the factor is 2·depth·eps, four
times that: it covers γ's denominator, and a float64 oracle that is itself rounded when the kernel's dtype
is float64.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cnnkern.reference.conv2d import conv2d
from cnnkern.reference.cp_conv2d import cp_conv2d
from cnnkern.reference.im2col import im2col


def _conv2d_depth(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> int:
    return weight[0].numel() + (bias is not None)


def _cp_conv2d_depth(
    x: Tensor, c: Tensor, h: Tensor, w: Tensor, k: Tensor, bias: Tensor | None = None
) -> int:
    return sum(factor.shape[1] for factor in (c, h, w, k)) + (bias is not None)


def _im2col_depth(x: Tensor, kernel_size: Any) -> int:
    return 0


_DEPTH: dict[Callable[..., Tensor], Callable[..., int]] = {
    conv2d: _conv2d_depth,
    cp_conv2d: _cp_conv2d_depth,
    im2col: _im2col_depth,
}


def error_bound(operation: Callable[..., Tensor], *arguments: Any, **options: Any) -> Tensor:
    """What a kernel may differ by from `operation`, a function of this package, per element and in float64.

    2·depth·eps·operation(|x|, |weight|, ...), where depth is the longest sum: C/G·kH·kW terms for `conv2d`;
    C/G, kH, kW and R/G terms one inside the other for `cp_conv2d`; none for `im2col`, which copies; one
    more for a bias. eps is that of x's dtype. `arguments` are the positional arguments of the operation
    (bias among them), `options` the keyword-only ones.
    """
    depth = _DEPTH[operation](*arguments)
    magnitudes = [a.detach().abs().double() if isinstance(a, Tensor) else a for a in arguments]
    return 2 * depth * torch.finfo(arguments[0].dtype).eps * operation(*magnitudes, **options)


def assert_within_bound(
    actual: Tensor, operation: Callable[..., Tensor], *arguments: Any, **options: Any
) -> None:
    """Raise AssertionError unless `actual` is `operation(*arguments, **options)` up to `error_bound`."""
    expected = operation(*(a.detach().double() if isinstance(a, Tensor) else a for a in arguments), **options)
    assert actual.shape == expected.shape, f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    assert actual.dtype == arguments[0].dtype, f"dtype {actual.dtype}, expected {arguments[0].dtype}"
    error = (actual.detach().double() - expected).abs()
    bound = error_bound(operation, *arguments, **options)
    wrong = ~(error <= bound)
    if wrong.any():
        where = tuple(wrong.nonzero()[0].tolist())
        raise AssertionError(
            f"{int(wrong.sum())} of {wrong.numel()} elements are out of bounds, the first at {where}: "
            f"{actual[where]:.9g}, expected {expected[where]:.9g} within {bound[where]:.3g}"
        )
