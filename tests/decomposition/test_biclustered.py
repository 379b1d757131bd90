"""The bi-clustered form: planted clusters are found, and grouped convolutions compute what it stands for."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from cnnkern.decomposition import biclustered, tucker2
from cnnkern.decomposition.biclustered import balanced_clusters
from tests.decomposition.tensors import gaussian

SHAPE = (12, 8, 3, 2)


def planted() -> tuple[Tensor, Tensor, Tensor]:
    """A weight whose biclusters have ranks (2, 2) once its channels are in order, and these orders."""
    blocks = [
        [torch.einsum("ks,srij,rc->kcij", gaussian((4, 2), 3 * n), gaussian((2, 2, 3, 2), n + 7),
                      gaussian((2, 4), n + 20))
         for n in (2 * h, 2 * h + 1)]
        for h in range(3)
    ]  # fmt: skip
    ordered = torch.cat([torch.cat(row, dim=1) for row in blocks])
    inputs, outputs = (torch.randperm(n, generator=torch.Generator().manual_seed(n)) for n in (8, 12))
    weight = torch.empty_like(ordered)
    weight[outputs[:, None], inputs] = ordered
    return weight, inputs, outputs


@pytest.mark.parametrize(("method", "ranks"), [("svd", (2, 3)), ("cp", 2)])
def test_error_is_that_of_what_is_reconstructed(method: str, ranks: tuple[int, int] | int) -> None:
    weight = gaussian(SHAPE)
    found = biclustered(weight, (2, 3), ranks, method=method)
    assert (found.inputs.shape, found.outputs.shape) == ((2, 4), (3, 4))
    assert sorted(found.inputs.flatten().tolist()) == list(range(8))
    assert sorted(found.outputs.flatten().tolist()) == list(range(12))
    assert 0 < found.error < 1
    assert found.error == pytest.approx(((found.reconstruct() - weight).norm() / weight.norm()).item())


def test_the_svd_form_of_one_cluster_is_tucker() -> None:
    weight = gaussian(SHAPE)
    assert biclustered(weight, (1, 1), (3, 4)).error == pytest.approx(tucker2(weight, (3, 4)).error)


def test_full_ranks_are_exact() -> None:
    assert biclustered(gaussian(SHAPE), (2, 3), (4, 4)).error < 1e-12
    assert biclustered(gaussian(SHAPE), (4, 3), 8, method="cp").error < 1e-6


def test_clusters_that_span_little_are_found() -> None:
    points = torch.cat([gaussian((5, 2), n) @ gaussian((2, 20), n + 9) for n in range(3)])
    order = torch.randperm(15, generator=torch.Generator().manual_seed(4))
    found = balanced_clusters(points[order], 3, 2, torch.Generator().manual_seed(0))
    assert sorted(sorted((order[each] // 5).tolist()) for each in found) == [[n] * 5 for n in range(3)]


def test_clustering_beats_the_given_order() -> None:
    weight, inputs, outputs = planted()
    ordered = weight[outputs][:, inputs]
    in_order = [
        tucker2(ordered[4 * h : 4 * h + 4, 4 * g : 4 * g + 4], (2, 2)).error
        for h in range(3)
        for g in range(2)
    ]
    assert max(in_order) < 1e-7
    as_given = [
        tucker2(weight[4 * h : 4 * h + 4, 4 * g : 4 * g + 4], (2, 2)).error
        for h in range(3)
        for g in range(2)
    ]
    assert biclustered(weight, (2, 3), (2, 2)).error < min(as_given)


@pytest.mark.parametrize(("method", "ranks"), [("svd", (2, 3)), ("cp", 2)])
def test_grouped_convolutions_compute_what_the_weight_does(method: str, ranks: tuple[int, int] | int) -> None:
    found = biclustered(gaussian(SHAPE), (2, 3), ranks, method=method)
    x = gaussian((2, 8, 7, 6), seed=1)
    first, core, last = found.factor_c.flatten(0, 2), found.core.flatten(0, 2), found.factor_k
    narrow = conv2d(x[:, found.inputs.flatten().repeat(3)], first[..., None, None], groups=6)
    middle = conv2d(narrow, core, groups=6 if method == "svd" else 6 * 2)
    last = last.transpose(1, 2).flatten(2).flatten(0, 1)
    y = conv2d(middle, last[..., None, None], groups=3)[:, found.outputs.flatten().argsort()]
    torch.testing.assert_close(y, conv2d(x, found.reconstruct()))


def test_the_same_seed_gives_the_same_factors() -> None:
    first, second = (biclustered(gaussian(SHAPE), (2, 3), (2, 2), seed=3) for _ in range(2))
    assert torch.equal(first.reconstruct(), second.reconstruct())


def test_zero_and_extreme_weights() -> None:
    assert biclustered(torch.zeros(SHAPE), (2, 3), (2, 2)).error == 0
    expected = biclustered(gaussian(SHAPE), (2, 3), (2, 2)).error
    assert biclustered(1e300 * gaussian(SHAPE), (2, 3), (2, 2)).error == pytest.approx(expected)
    assert biclustered(gaussian(SHAPE).float(), (2, 3), (2, 2)).core.dtype == torch.float32


@pytest.mark.parametrize(
    ("clusters", "ranks", "method", "message"),
    [
        ((3, 3), (2, 2), "svd", r"clusters\[0\]: expected a divisor of the 8 channels, got 3"),
        ((2, 5), (2, 2), "svd", r"clusters\[1\]: expected a divisor of the 12 channels, got 5"),
        ((0, 3), (2, 2), "svd", r"clusters\[0\]: expected at least 1"),
        ((2, 3), (5, 2), "svd", r"ranks\[0\]: expected at most the 4 channels"),
        ((2, 3), 0, "cp", "rank: expected at least 1"),
        ((2, 3), (2, 2), "nls", "method: expected one of svd, cp, got 'nls'"),
    ],
)
def test_what_cannot_be_is_refused(
    clusters: tuple[int, int], ranks: tuple[int, int] | int, method: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        biclustered(gaussian(SHAPE), clusters, ranks, method=method)
