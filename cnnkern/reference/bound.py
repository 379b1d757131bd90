"""How far a kernel may be from the oracle: the rounding-error bound of a sum of products.

A sum of `depth` products in floating point, in any order and with any blocking, differs from the exact one
by at most γ_depth·Σ|a||b| with γ_n = n·u/(1 − n·u) and u = eps/2 (Higham, Accuracy and Stability of
Numerical Algorithms, 2002, section 3.1). Nested sums add their depths. Here the factor is 2·depth·eps, four
times that: it covers γ's denominator, and a float64 oracle that is itself rounded when the kernel's dtype
is float64.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cnnkern.reference.column_sparse_conv2d import column_sparse_conv2d
from cnnkern.reference.conv2d import conv2d
from cnnkern.reference.cp_conv2d import cp_conv2d
from cnnkern.reference.im2col import im2col
from cnnkern.reference.perforated_conv2d import perforated_conv2d


def _conv2d_depth(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> int:
    return weight[0].numel() + (bias is not None)


def _cp_conv2d_depth(
    x: Tensor, c: Tensor, h: Tensor, w: Tensor, k: Tensor, bias: Tensor | None = None
) -> int:
    return sum(factor.shape[1] for factor in (c, h, w, k)) + (bias is not None)


def _column_sparse_conv2d_depth(
    x: Tensor, weight: Tensor, columns: Tensor, bias: Tensor | None = None
) -> int:
    return weight.shape[1] + (bias is not None)


def _perforated_conv2d_depth(x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None = None) -> int:
    return _conv2d_depth(x, weight, bias)


def _im2col_depth(x: Tensor, kernel_size: Any) -> int:
    return 0


_DEPTH: dict[Callable[..., Tensor], Callable[..., int]] = {
    column_sparse_conv2d: _column_sparse_conv2d_depth,
    conv2d: _conv2d_depth,
    cp_conv2d: _cp_conv2d_depth,
    im2col: _im2col_depth,
    perforated_conv2d: _perforated_conv2d_depth,
}


def _is_real(argument: Any) -> bool:
    """Whether it is a tensor of numbers that are rounded, and not of indices."""
    return isinstance(argument, Tensor) and argument.is_floating_point()


def error_bound(operation: Callable[..., Tensor], *arguments: Any, **options: Any) -> Tensor:
    """What a kernel may differ by from `operation`, a function of this package, per element and in float64.

    2·depth·eps·operation(|x|, |weight|, ...), where depth is the longest sum: C/G·kH·kW terms for `conv2d`
    and `perforated_conv2d`; the kept columns for `column_sparse_conv2d`; C/G, kH, kW and R/G terms one inside
    the other for `cp_conv2d`; none for `im2col`, which copies; one more for a bias. eps is that of x's dtype.
    `arguments` are the positional arguments of the operation (bias among them), `options` the keyword-only
    ones.
    """
    depth = _DEPTH[operation](*arguments)
    magnitudes = [a.detach().abs().double() if _is_real(a) else a for a in arguments]
    return 2 * depth * torch.finfo(arguments[0].dtype).eps * operation(*magnitudes, **options)


def _is_real(argument: Any) -> bool:
    """Whether it is a tensor of numbers that are rounded, and not of indices or of a mask."""
    return isinstance(argument, Tensor) and argument.is_floating_point()


# Numbers that are rounded on the way of a product into the output where operands are short and sums are
# float32: the factors, what is stored between the stages, the output.
_ROUNDED: dict[Callable[..., Tensor], int] = {
    column_sparse_conv2d: 2 + 1,
    conv2d: 2 + 1,
    cp_conv2d: 5 + 3 + 1,
    # and, of a gradient, the sum over the outputs that show a kept one
    perforated_conv2d: 2 + 1 + 1,
}


def assert_within_mixed_bound(
    actual: Tensor, operation: Callable[..., Tensor], operand_eps: float, *arguments: Any, **options: Any
) -> None:
    """Raise AssertionError unless `actual` is `operation` up to the rounding of operands and of float32 sums.

    `operand_eps` is the relative spacing of the numbers that go into products (0 for float32): that of the
    arguments' dtype, or 2**-10 for TF32, which cuts bits off. Each number that is rounded to it adds an error
    of less than it: the bound is 2·(depth·eps + rounded·operand_eps)·operation(|x|, |weight|, ...) with the
    eps of float32.
    """
    doubles = [a.detach().double() if _is_real(a) else a for a in arguments]
    expected = operation(*doubles, **options)
    magnitude = operation(*(a.abs() if _is_real(a) else a for a in doubles), **options)
    relative = _DEPTH[operation](*arguments) * torch.finfo(torch.float32).eps
    relative += _ROUNDED[operation] * operand_eps
    _assert_within(actual, expected, 2 * relative * magnitude, arguments[0].dtype)


def assert_mixed_gradients_within_bound(
    actual: Sequence[Tensor],
    operation: Callable[..., Tensor],
    operand_eps: float,
    grad: Tensor,
    *arguments: Any,
    **options: Any,
) -> None:
    """`assert_gradients_within_bound` for operands of `operand_eps` and float32 sums.

    A gradient of a convolution of one stage is a product of two factors, rounded as one of the operation
    itself is.
    """
    depth = _gradient_depth(operation, grad, arguments)
    relative = depth * torch.finfo(torch.float32).eps + _ROUNDED[operation] * operand_eps
    _assert_gradients_within(actual, operation, 2 * relative, grad, arguments, options)


def assert_gradients_within_bound(
    actual: Sequence[Tensor], operation: Callable[..., Tensor], grad: Tensor, *arguments: Any, **options: Any
) -> None:
    """Raise AssertionError unless `actual` are the gradients of `operation` up to the bound of their sums.

    `grad` is the gradient of the output and `actual` has one for each floating-point tensor among
    `arguments`. A gradient sums over the pixels of all images on top of what the operation itself sums over,
    and over the output channels: the bound is 2·depth·eps times the gradient that all absolute values would
    have.
    """
    relative = 2 * _gradient_depth(operation, grad, arguments) * torch.finfo(grad.dtype).eps
    _assert_gradients_within(actual, operation, relative, grad, arguments, options)


def _gradient_depth(operation: Callable[..., Tensor], grad: Tensor, arguments: Sequence[Any]) -> int:
    return _DEPTH[operation](*arguments) + grad.numel() + arguments[0].numel() // arguments[0].shape[1]


def _assert_gradients_within(
    actual: Sequence[Tensor],
    operation: Callable[..., Tensor],
    relative: float,
    grad: Tensor,
    arguments: Sequence[Any],
    options: dict[str, Any],
) -> None:
    expected = _gradients(lambda a: a.detach().double(), operation, grad, arguments, options)
    magnitudes = _gradients(lambda a: a.detach().abs().double(), operation, grad, arguments, options)
    for index, (got, exact, magnitude) in enumerate(zip(actual, expected, magnitudes, strict=True)):
        assert got.shape == exact.shape, (
            f"gradient {index}: shape {tuple(got.shape)}, not {tuple(exact.shape)}"
        )
        bound = relative * magnitude
        wrong = int((~((got.detach().double() - exact).abs() <= bound)).sum())
        assert not wrong, f"gradient {index}: {wrong} of {got.numel()} elements are out of bounds"


def _gradients(
    convert: Callable[[Tensor], Tensor],
    operation: Callable[..., Tensor],
    grad: Tensor,
    arguments: Sequence[Any],
    options: dict[str, Any],
) -> tuple[Tensor, ...]:
    leaves = [convert(a).requires_grad_() if _is_real(a) else a for a in arguments]
    wanted = [leaf for leaf in leaves if _is_real(leaf)]
    return torch.autograd.grad(operation(*leaves, **options), wanted, convert(grad))


def assert_within_bound(
    actual: Tensor, operation: Callable[..., Tensor], *arguments: Any, **options: Any
) -> None:
    """Raise AssertionError unless `actual` is `operation(*arguments, **options)` up to `error_bound`."""
    expected = operation(*(a.detach().double() if _is_real(a) else a for a in arguments), **options)
    bound = error_bound(operation, *arguments, **options)
    _assert_within(actual, expected, bound, arguments[0].dtype)


def _assert_within(actual: Tensor, expected: Tensor, bound: Tensor, dtype: torch.dtype) -> None:
    assert actual.shape == expected.shape, f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    assert actual.dtype == dtype, f"dtype {actual.dtype}, expected {dtype}"
    error = (actual.detach().double() - expected).abs()
    wrong = ~(error <= bound)
    if wrong.any():
        where = tuple(wrong.nonzero()[0].tolist())
        raise AssertionError(
            f"{int(wrong.sum())} of {wrong.numel()} elements are out of bounds, the first at {where}: "
            f"{actual[where]:.9g}, expected {expected[where]:.9g} within {bound[where]:.3g}"
        )
