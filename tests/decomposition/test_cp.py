"""The front door: planted ranks, shapes that need no iteration, what is refused, what comes back."""

import math
import warnings

import pytest
import torch
from torch import Tensor

from cnnkern.decomposition import CPFactors, cp
from cnnkern.decomposition.algebra import component_norms
from cnnkern.decomposition.initialization import largest_exact_rank, starts
from tests.decomposition.tensors import gaussian, planted

METHODS = ["nls", "als", "greedy"]
NAMES = ["factor_c", "factor_h", "factor_w", "factor_k"]


def relative(found: CPFactors, weight: Tensor) -> float:
    """The relative error, computed in float64 from the factors as they are."""
    c, h, w, k = (getattr(found, name).double() for name in NAMES)
    rebuilt = torch.einsum("rc,rh,rw,kr->kchw", c, h, w, k)
    return ((rebuilt - weight.double()).norm() / weight.double().norm()).item()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("shape", "rank"),
    [
        ((20, 16, 3, 3), 1),
        ((20, 16, 3, 3), 8),
        ((20, 16, 3, 3), 24),  # above both channel counts
        ((16, 32, 5, 5), 20),  # more inputs than outputs
        ((5, 4, 3, 3), 6),
        ((12, 10, 1, 7), 7),
        ((12, 10, 7, 1), 7),
        ((40, 1, 5, 5), 4),
        ((6, 5, 9, 8), 7),
        ((3, 2, 7, 6), 5),  # the kernel is the largest mode
    ],
)
def test_planted_ranks_are_recovered(shape: tuple[int, ...], rank: int, seed: int) -> None:
    weight = planted(shape, rank, seed)
    found = cp(weight, rank, seed=seed)
    assert relative(found, weight) < 1e-6
    assert found.error == pytest.approx(relative(found, weight), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_factors_have_the_shapes_and_dtype_of_the_design(dtype: torch.dtype, layout) -> None:
    weight = planted((7, 5, 3, 2), 4).to(dtype).to(memory_format=layout).requires_grad_()
    found = cp(weight, 4)
    assert [tuple(getattr(found, name).shape) for name in NAMES] == [(4, 5), (4, 3), (4, 2), (7, 4)]
    for name in NAMES:
        factor = getattr(found, name)
        assert (factor.dtype, factor.requires_grad) == (dtype, False)
        assert factor.is_contiguous()
    assert (found.rank, found.reconstruct().shape, found.reconstruct().dtype) == (4, weight.shape, dtype)
    assert found.error == pytest.approx(relative(found, weight.detach()), rel=1e-6, abs=1e-12)
    # The weight is what it was rounded to, and so are the factors.
    assert found.error < 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("method", METHODS)
def test_components_are_balanced(method: str) -> None:
    found = cp(gaussian((8, 6, 3, 3)), 5, method=method)
    norms = torch.stack(
        [getattr(found, name).norm(dim=1) for name in NAMES[:3]] + [found.factor_k.norm(dim=0)]
    )
    torch.testing.assert_close(norms, norms[:1].expand(4, -1))
    torch.testing.assert_close(norms[0] ** 4, torch.tensor(found.history.norms_after, dtype=torch.float64))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(9, 6, 1, 1), (9, 1, 4, 1), (1, 1, 5, 7), (1, 6, 1, 3)])
def test_matrices_get_their_best_approximation(shape: tuple[int, ...], method: str) -> None:
    weight = gaussian(shape)
    found = cp(weight, 2, method=method)
    values = torch.linalg.svdvals(weight.reshape([size for size in shape if size > 1]))
    assert found.error == pytest.approx((values[2:].norm() / values.norm()).item(), rel=1e-9)
    assert found.history.stopped == "optimal"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "shape", [(6, 5, 3, 2), (4, 3, 1, 3), (2, 2, 5, 5), (7, 4, 1, 1), (5, 1, 1, 1), (1, 1, 1, 1)]
)
@pytest.mark.parametrize("above", [0, 3])
def test_the_largest_rank_is_exact_and_more_is_padded(
    shape: tuple[int, ...], above: int, method: str
) -> None:
    enough = largest_exact_rank(shape)
    weight = gaussian(shape)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = cp(weight, enough + above, method=method)
    assert relative(found, weight) < 1e-14
    assert found.rank == enough + above
    assert sum(norm == 0 for norm in found.history.norms_after) >= above
    messages = [str(warning.message) for warning in caught]
    assert (f"rank {enough + above} is more than any" in "".join(messages)) == (above > 0)


def test_one_below_the_largest_rank_is_fitted() -> None:
    weight = gaussian((6, 5, 3, 2))
    found = cp(weight, largest_exact_rank((6, 5, 3, 2)) - 1)
    assert found.error < 1e-6  # a typical tensor needs far less


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(6, 5, 3, 3), (6, 5, 1, 1)])
def test_a_zero_weight_has_zero_factors(shape: tuple[int, ...], method: str) -> None:
    found = cp(torch.zeros(shape), 3, method=method)
    assert found.error == 0
    assert not any(getattr(found, name).any() for name in NAMES)


@pytest.mark.parametrize("method", METHODS)
def test_a_weight_of_lower_rank_than_asked(method: str) -> None:
    weight = planted((8, 6, 3, 3), 2)
    found = cp(weight, 5, method=method)
    assert all(torch.isfinite(getattr(found, name)).all() for name in NAMES)
    assert found.error < (1e-6 if method == "nls" else 0.1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_the_scale_of_the_weight_does_not_matter(scale: float, method: str) -> None:
    weight = gaussian((6, 5, 3, 3))
    expected = cp(weight, 3, method=method).error
    assert cp(scale * weight, 3, method=method).error == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_sparse_and_repeated_weights_give_finite_factors(method: str) -> None:
    lonely = torch.zeros(6, 5, 3, 3)
    lonely[2, 3, 1, 0] = 4.0
    for weight in (lonely, torch.ones(6, 5, 3, 3), gaussian((6, 1, 3, 3)).expand(6, 5, 3, 3)):
        found = cp(weight, 4, method=method)
        assert all(torch.isfinite(getattr(found, name)).all() for name in NAMES)
        assert math.isfinite(found.error)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_factors(method: str) -> None:
    weight = gaussian((8, 6, 3, 3)).float()
    one, two = (cp(weight, 5, method=method, seed=7) for _ in range(2))
    assert all(torch.equal(getattr(one, name), getattr(two, name)) for name in NAMES)
    assert one.history == two.history


def test_the_seed_decides_over_the_random_starts_and_nothing_else_does() -> None:
    weight = gaussian((9, 8, 3, 3))

    def drawn(seed: int) -> Tensor:
        return torch.cat(starts(weight, 9, torch.Generator().manual_seed(seed))["random 1"])

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    one = cp(weight, 9, seed=1, max_iter=3)
    torch.manual_seed(123)
    state = torch.get_rng_state()
    assert cp(weight, 9, seed=1, max_iter=3).history == one.history
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("method", METHODS)
def test_history_says_what_the_fit_did(method: str) -> None:
    found = cp(gaussian((8, 6, 3, 3)), 5, method=method, correction=False)
    history = found.history
    assert (history.method, history.iterations) == (method, len(history.errors))
    assert history.fit_error == pytest.approx(history.errors[-1], rel=1e-6)
    assert history.fit_error == found.error
    assert history.norms_after == history.norms_before
    assert history.correction_iterations == 0
    factors = [found.factor_k, found.factor_c.T, found.factor_h.T, found.factor_w.T]
    torch.testing.assert_close(torch.tensor(history.norms_after).double(), component_norms(factors))


def test_max_iter_and_tol_end_the_fit() -> None:
    weight = gaussian((8, 6, 3, 3))
    assert cp(weight, 5, max_iter=7).history.iterations == 7
    assert cp(weight, 5, method="als", max_iter=20).history.iterations == 20
    slow = gaussian((16, 12, 3, 3))
    loose, tight = (cp(slow, 14, tol=tol, correction=False).history for tol in (1e-2, 1e-9))
    assert loose.stopped == "converged"
    assert loose.iterations < tight.iterations
    assert tight.fit_error < loose.fit_error


@pytest.mark.parametrize("method", METHODS)
def test_silent_unless_asked(
    method: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnnkern.decomposition.progress.PATIENCE", 3600.0)  # on a machine however slow
    weight = gaussian((8, 6, 3, 3))
    for verbose in (None, False):
        cp(weight, 5, method=method, verbose=verbose)
    assert capsys.readouterr() == ("", "")
    cp(weight, 5, method=method, verbose=True)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "CP rank 5" in printed.err
    assert "error 0." in printed.err


WEIGHT = torch.ones(3, 2, 3, 3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([[1.0]], 2), TypeError, "weight: expected a torch.Tensor, got list"),
        (
            (WEIGHT[0], 2),
            ValueError,
            r"weight: expected 4 dimensions \(K, C, kH, kW\), got shape \(2, 3, 3\)",
        ),
        ((WEIGHT[:0], 2), ValueError, r"weight: expected one that is not empty, got shape \(0, 2, 3, 3\)"),
        ((WEIGHT.int(), 2), NotImplementedError, "got torch.int32"),
        ((WEIGHT.to(torch.complex64), 2), NotImplementedError, "got torch.complex64"),
        ((WEIGHT.to("meta"), 2), NotImplementedError, "got meta"),
        ((WEIGHT * math.nan, 2), ValueError, "weight: expected finite values"),
        ((WEIGHT / 0, 2), ValueError, "weight: expected finite values"),
        ((WEIGHT, 0), ValueError, "rank: expected at least 1, got 0"),
        ((WEIGHT, -3), ValueError, "rank: expected at least 1, got -3"),
        ((WEIGHT, 2.0), TypeError, "rank: expected an integer, got 2.0"),
        ((WEIGHT, True), TypeError, "rank: expected an integer, got True"),
    ],
)
def test_what_is_refused(arguments: tuple, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        cp(*arguments)


@pytest.mark.parametrize(
    ("option", "error", "message"),
    [
        ({"method": "svd"}, ValueError, "method: expected one of nls, als, greedy, got 'svd'"),
        ({"seed": 1.5}, TypeError, "seed: expected an integer, got 1.5"),
        ({"max_iter": 0}, ValueError, "max_iter: expected at least 1, got 0"),
        ({"max_iter": "9"}, TypeError, "max_iter: expected an integer, got '9'"),
        ({"tol": -1.0}, ValueError, "tol: expected a finite number of at least 0, got -1.0"),
        ({"tol": math.nan}, ValueError, "tol: expected a finite number of at least 0, got nan"),
    ],
)
def test_what_options_are_refused(option: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        cp(WEIGHT, 2, **option)
