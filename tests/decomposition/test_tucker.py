"""Tucker-2: exact where it can be, no worse than the HOSVD, and three convolutions that compute the same."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from cnnkern.decomposition import tucker2
from cnnkern.decomposition.initialization import gram_basis
from tests.decomposition.tensors import gaussian

SHAPE = (9, 7, 3, 2)


def hosvd_error(weight: Tensor, rank_c: int, rank_k: int) -> float:
    basis_k, basis_c = gram_basis(weight, 0)[1][:, :rank_k], gram_basis(weight, 1)[1][:, :rank_c]
    kept = torch.einsum("kcij,ks,cr->srij", weight, basis_k, basis_c)
    return (1 - (kept.norm() / weight.norm()).item() ** 2) ** 0.5


@pytest.mark.parametrize("ranks", [(1, 1), (3, 4), (7, 5), (2, 9)])
def test_refinement_is_no_worse_than_the_hosvd(ranks: tuple[int, int]) -> None:
    weight = gaussian(SHAPE)
    found = tucker2(weight, ranks)
    assert (found.factor_c.shape, found.core.shape) == ((ranks[0], 7), (ranks[1], ranks[0], 3, 2))
    assert found.factor_k.shape == (9, ranks[1])
    assert found.error <= hosvd_error(weight, *ranks) + 1e-9
    assert found.error == pytest.approx(((found.reconstruct() - weight).norm() / weight.norm()).item())


def test_planted_and_full_ranks_are_exact() -> None:
    planted = torch.einsum("ks,srij,rc->kcij", gaussian((9, 4)), gaussian((4, 3, 3, 2)), gaussian((3, 7)))
    assert tucker2(planted, (3, 4)).error < 1e-12
    assert tucker2(gaussian(SHAPE), (7, 9)).error < 1e-12


def test_bases_are_orthonormal() -> None:
    found = tucker2(gaussian(SHAPE), (3, 4))
    torch.testing.assert_close(found.factor_c @ found.factor_c.T, torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(found.factor_k.T @ found.factor_k, torch.eye(4, dtype=torch.float64))


def test_three_convolutions_compute_what_the_weight_does() -> None:
    found = tucker2(gaussian(SHAPE), (3, 4))
    x = gaussian((2, 7, 8, 6), seed=1)
    narrow = conv2d(conv2d(x, found.factor_c[..., None, None]), found.core)
    torch.testing.assert_close(
        conv2d(narrow, found.factor_k[..., None, None]), conv2d(x, found.reconstruct())
    )


def test_zero_and_extreme_weights() -> None:
    assert tucker2(torch.zeros(SHAPE), (2, 2)).error == 0
    expected = tucker2(gaussian(SHAPE), (3, 4)).error
    assert tucker2(1e300 * gaussian(SHAPE), (3, 4)).error == pytest.approx(expected)


@pytest.mark.parametrize("ranks", [(8, 4), (3, 10), (0, 4), (3, -1)])
def test_ranks_out_of_range_are_refused(ranks: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"ranks\[[01]\]: expected at"):
        tucker2(gaussian(SHAPE), ranks)
