"""Degenerate fits are found and corrected, at a bounded price; others are left alone."""

import pytest
import torch

from cnnkern.decomposition import cp
from cnnkern.decomposition.algebra import cancellation
from cnnkern.decomposition.correction import DEGENERATE, TOLERANCE
from tests.decomposition.tensors import gaussian, planted, w_state

NOISY = [w_state(noise=0.3), gaussian((16, 12, 3, 3)), gaussian((10, 8, 5, 1))]
RANKS = [2, 14, 12]


def squares(norms: tuple[float, ...]) -> float:
    return sum(norm**2 for norm in norms)


def cancels(found) -> float:
    return cancellation([found.factor_k, found.factor_c.T, found.factor_h.T, found.factor_w.T])


@pytest.mark.parametrize("method", ["nls", "als"])
@pytest.mark.parametrize(
    ("weight", "rank"), list(zip(NOISY, RANKS, strict=True)), ids=["W", "4-way", "3-way"]
)
def test_degenerate_fits_get_smaller_components_within_the_bound(weight, rank: int, method: str) -> None:
    raw = cp(weight, rank, method=method, correction=False)
    found = cp(weight, rank, method=method)
    assert raw.history.degenerate
    assert found.history.degenerate
    assert found.history.fit_error == raw.error
    assert found.history.correction_iterations > 0
    assert found.error <= TOLERANCE * raw.error * (1 + 1e-9)
    assert found.history.norms_before == raw.history.norms_after
    assert squares(found.history.norms_after) < 0.6 * squares(found.history.norms_before)
    assert cancels(found) < min(DEGENERATE, cancels(raw))


def test_the_w_state_itself_is_corrected_as_far_as_the_bound_allows() -> None:
    # No pair of small components comes this close: the components of the best ones are inversely large.
    with pytest.warns(UserWarning, match="the components of this rank-2 fit cancel each other"):
        found = cp(w_state(), 2)
    assert found.history.degenerate
    assert found.error <= TOLERANCE * found.history.fit_error
    assert squares(found.history.norms_after) <= squares(found.history.norms_before)


def test_the_w_state_has_rank_three() -> None:
    found = cp(w_state(), 3)
    assert found.error < 1e-6


def test_a_fit_that_is_not_degenerate_is_left_as_it_is() -> None:
    weight = planted((12, 10, 3, 3), 6) + 0.05 * gaussian((12, 10, 3, 3), seed=1)
    found, raw = cp(weight, 6), cp(weight, 6, correction=False)
    assert not found.history.degenerate
    assert found.history.correction_iterations == 0
    assert torch.equal(found.factor_k, raw.factor_k)
    assert found.history.norms_after == found.history.norms_before


def test_greedy_terms_are_never_degenerate() -> None:
    assert not cp(gaussian((16, 12, 3, 3)), 14, method="greedy").history.degenerate
