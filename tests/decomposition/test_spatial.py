"""The vertical and the horizontal convolution are the SVD, and compute what their weight does."""

import pytest
import torch
from torch.nn.functional import conv2d

from cnnkern.decomposition import spatial_svd
from tests.decomposition.tensors import gaussian

SHAPE = (7, 5, 3, 2)


def test_error_is_the_optimum() -> None:
    weight = gaussian(SHAPE)
    values = torch.linalg.svdvals(weight.permute(0, 3, 1, 2).reshape(14, 15))
    found = spatial_svd(weight, 6)
    assert (found.rank, found.vertical.shape, found.horizontal.shape) == (6, (6, 5, 3, 1), (7, 6, 1, 2))
    assert found.error == pytest.approx((values[6:].norm() / values.norm()).item(), rel=1e-9)
    assert found.error == pytest.approx(((found.reconstruct() - weight).norm() / weight.norm()).item())


def test_the_largest_rank_is_exact_and_a_larger_one_is_refused() -> None:
    assert spatial_svd(gaussian(SHAPE), 14).error < 1e-14
    with pytest.raises(ValueError, match="rank: expected at most 14"):
        spatial_svd(gaussian(SHAPE), 15)


def test_two_convolutions_compute_what_the_weight_does() -> None:
    found = spatial_svd(gaussian(SHAPE), 4)
    x = gaussian((2, 5, 9, 8), seed=1)
    torch.testing.assert_close(
        conv2d(conv2d(x, found.vertical), found.horizontal), conv2d(x, found.reconstruct())
    )


def test_zero_and_extreme_weights() -> None:
    assert spatial_svd(torch.zeros(SHAPE), 3).error == 0
    expected = spatial_svd(gaussian(SHAPE), 3).error
    assert spatial_svd(1e300 * gaussian(SHAPE), 3).error == pytest.approx(expected)


def test_dtype_is_kept_and_bad_values_are_refused() -> None:
    found = spatial_svd(gaussian(SHAPE).float().requires_grad_(), 3)
    assert (found.vertical.dtype, found.reconstruct().dtype) == (torch.float32, torch.float32)
    assert not found.vertical.requires_grad
    with pytest.raises(ValueError, match="rank: expected at least 1, got 0"):
        spatial_svd(gaussian(SHAPE), 0)
    with pytest.raises(ValueError, match="weight: expected finite values"):
        spatial_svd(gaussian(SHAPE) / 0, 2)
