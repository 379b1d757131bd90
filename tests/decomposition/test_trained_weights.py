"""The three methods on the trained 3×3 layers of SqueezeNet 1.1."""

import pytest
from torch import Tensor

from cnnkern.decomposition import CPFactors, cp
from cnnkern.decomposition.algebra import cancellation
from cnnkern.decomposition.correction import DEGENERATE, TOLERANCE
from examples.files import Unavailable
from examples.imagenet import squeezenet

CASES = [("fire2", 8), ("fire2", 24), ("fire2", 48), ("fire3", 16), ("fire3", 32), ("fire4", 16)]


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """The weights by the names of their blocks."""
    try:
        network = squeezenet()
    except Unavailable as error:
        pytest.skip(str(error).splitlines()[0])
    return {name: getattr(network, name).expand3x3.weight.detach() for name in {name for name, _ in CASES}}


@pytest.fixture(scope="module")
def fits(weights: dict[str, Tensor]) -> dict[str, list[CPFactors]]:
    """Every case by every method."""
    return {
        method: [cp(weights[name], rank, method=method) for name, rank in CASES]
        for method in ("nls", "als", "greedy")
    }


def errors(fits: list[CPFactors]) -> list[float]:
    return [fit.error for fit in fits]


def fit_errors(fits: list[CPFactors]) -> list[float]:
    return [fit.history.fit_error for fit in fits]


@pytest.mark.parametrize("measure", [errors, fit_errors])
def test_least_squares_are_not_behind_alternating_ones(fits: dict[str, list[CPFactors]], measure) -> None:
    ratios = [ours / theirs for ours, theirs in zip(measure(fits["nls"]), measure(fits["als"]), strict=True)]
    assert max(ratios) <= 1.02
    assert sum(ratios) / len(ratios) < 1


def test_joint_fits_beat_greedy_terms(fits: dict[str, list[CPFactors]]) -> None:
    for ours, theirs in zip(fit_errors(fits["nls"]), fit_errors(fits["greedy"]), strict=True):
        assert ours < theirs


def test_corrected_fits_keep_to_the_bound_and_do_not_cancel(fits: dict[str, list[CPFactors]]) -> None:
    for fit in fits["nls"] + fits["als"]:
        assert fit.error <= TOLERANCE * fit.history.fit_error + 1e-7  # the factors are rounded to float32
        factors = [fit.factor_k, fit.factor_c.T, fit.factor_h.T, fit.factor_w.T]
        assert cancellation([factor.double() for factor in factors]) < DEGENERATE
