"""Everything computed from R×R matrices equals what the Jacobian, written out by autograd, says."""

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import hessian, jacobian

from cnnkern.decomposition import gauss_newton
from cnnkern.decomposition.algebra import reconstruct
from cnnkern.decomposition.gauss_newton import GaussNewton
from cnnkern.decomposition.objective import Objective
from cnnkern.decomposition.plane_search import best_combination, penalty_curvature, residual_curvature
from tests.decomposition.tensors import gaussian

DIMS = [(5, 4, 3, 2), (5, 4, 3)]
RANK = 3
PENALTIES = [0.0, 0.7]


def problem(dims: tuple[int, ...], penalty: float) -> tuple[Objective, Tensor, GaussNewton]:
    objective = Objective(gaussian(dims, seed=1))
    x = gaussian((sum(dims), RANK), seed=2)
    return objective, x, GaussNewton(objective, objective.evaluate(x), penalty)


def residuals(objective: Objective, x: Tensor, penalty: float) -> Tensor:
    """All residuals of the objective: those of the tensor, then each component weighed by the penalty."""
    factors = objective.split(x)
    tensor = objective.unfolding.reshape(objective.dims)
    components = [reconstruct([factor[:, r : r + 1] for factor in factors]) for r in range(RANK)]
    return torch.stack([sum(components) - tensor, *(penalty**0.5 * c for c in components)]).flatten()


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("penalty", PENALTIES)
def test_value_and_gradient(dims: tuple[int, ...], penalty: float) -> None:
    objective, x, model = problem(dims, penalty)
    x.requires_grad_()
    value = 0.5 * residuals(objective, x, penalty).square().sum()
    assert objective.evaluate(x.detach()).value(penalty) == pytest.approx(value.item(), rel=1e-12)
    torch.testing.assert_close(model.gradient, torch.autograd.grad(value, x)[0])


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("penalty", PENALTIES)
def test_product_with_the_matrix(dims: tuple[int, ...], penalty: float) -> None:
    objective, x, model = problem(dims, penalty)
    full = jacobian(lambda at: residuals(objective, at, penalty), x).flatten(1)
    v = gaussian(tuple(x.shape), seed=3)
    torch.testing.assert_close(model.multiply(v).flatten(), full.T @ (full @ v.flatten()))


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("dense", [True, False], ids=["dense", "iterative"])
def test_step_solves_the_damped_system(
    dims: tuple[int, ...], penalty: float, dense: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gauss_newton, "DENSE_LIMIT", 10_000 if dense else 0)
    monkeypatch.setattr(gauss_newton, "FORCING", 1e-12)
    monkeypatch.setattr(gauss_newton, "CG_LIMIT", 500)
    _, _, model = problem(dims, penalty)
    step, iterations = model.step(0.1)
    torch.testing.assert_close(model.multiply(step) + 0.1 * step, -model.gradient)
    assert (iterations == 1) == dense


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("penalty", PENALTIES)
def test_curvature_along_directions_completes_the_hessian(dims: tuple[int, ...], penalty: float) -> None:
    objective, x, model = problem(dims, penalty)
    full = hessian(lambda at: 0.5 * residuals(objective, at, penalty).square().sum(), x)
    full = full.reshape(x.numel(), -1)
    directions = [gaussian(tuple(x.shape), seed) for seed in (3, 4)]
    stacked = torch.stack([direction.flatten() for direction in directions])
    images = torch.stack([model.multiply(direction).flatten() for direction in directions])
    found = stacked @ images.T + residual_curvature(model, directions) + penalty_curvature(model, directions)
    torch.testing.assert_close(found, stacked @ full @ stacked.T)


def test_best_combination_promises_what_a_small_step_brings() -> None:
    objective, x, model = problem(DIMS[0], 0.3)
    direction, _ = model.step(1e4)
    move, promised = best_combination(model, [direction, 1e-3 * gaussian(tuple(x.shape))], 1e4)
    gained = objective.evaluate(x).value(0.3) - objective.evaluate(x + move).value(0.3)
    assert promised > 0
    assert gained - 0.5e4 * move.square().sum().item() == pytest.approx(promised, rel=1e-2)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_improved_first_mode_is_the_damped_least_squares_solution(penalty: float) -> None:
    objective, x, _ = problem(DIMS[0], 0.0)
    anchor = gaussian(tuple(x.shape), seed=5)
    improved = objective.improve_first_mode(x, anchor, penalty, 0.2).requires_grad_()
    value = 0.5 * residuals(objective, improved, penalty).square().sum()
    value = value + 0.1 * (improved - anchor)[: DIMS[0][0]].square().sum()
    (gradient,) = torch.autograd.grad(value, improved)
    torch.testing.assert_close(gradient[: DIMS[0][0]], torch.zeros(DIMS[0][0], RANK, dtype=x.dtype))
    assert torch.equal(improved[DIMS[0][0] :], x[DIMS[0][0] :])


def test_first_mode_is_left_where_rounding_makes_its_system_singular() -> None:
    objective = Objective(gaussian((4, 3, 2)))
    x = torch.zeros(9, 2, dtype=torch.float64)
    assert objective.improve_first_mode(x, x, 0.0, 0.0) is None
