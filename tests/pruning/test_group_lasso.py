"""The group lasso: its value and gradient, its proximal step, and what training with it finds."""

import math

import pytest
import torch
from torch import nn

from cnnkern import pruning


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_term_is_the_sum_of_norms(groups: int) -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 3, groups=groups), nn.Conv2d(8, 2, 1)).double()
    outputs = 8 // groups
    expected = sum(
        model[0].weight[g * outputs : (g + 1) * outputs, c, i, j].norm()
        for g in range(groups)
        for c in range(4 // groups)
        for i in range(3)
        for j in range(3)
    )
    torch.testing.assert_close(pruning.group_lasso(model, ["0"]), expected)
    torch.testing.assert_close(pruning.group_lasso(model), expected + model[1].weight.norm(dim=0).sum())


def test_a_zero_column_has_gradient_zero() -> None:
    conv = nn.Conv2d(2, 3, 3)
    with torch.no_grad():
        conv.weight[:, 1, 2, 0] = 0
    pruning.group_lasso(conv).backward()
    assert not conv.weight.grad[:, 1, 2, 0].any()
    assert conv.weight.grad.isfinite().all()


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_the_proximal_step_is_the_minimizer(groups: int, memory_format: torch.memory_format) -> None:
    conv = nn.Conv2d(4, 6, 3, groups=groups, dtype=torch.float64).to(memory_format=memory_format)
    before = conv.weight.detach().clone().reshape(groups, 6 // groups, -1)
    norms = before.norm(dim=1)
    threshold = norms.median().item()
    pruning.proximal_step(conv, threshold)
    after = conv.weight.detach().reshape(before.shape)
    zero = (after == 0).all(dim=1)
    assert torch.equal(zero, norms <= threshold)
    # elsewhere the gradient of ½‖u − w‖² + t‖u‖ is zero
    size = after.norm(dim=1, keepdim=True)
    gradient = after - before + threshold * after / size
    torch.testing.assert_close(gradient.masked_fill(zero.unsqueeze(1), 0), torch.zeros_like(gradient))

    def objective(u: torch.Tensor) -> torch.Tensor:
        return (u - before).square().sum(dim=1) / 2 + threshold * u.norm(dim=1)

    for scale in (1e-3, 1e-1, 1):
        assert (objective(after) <= objective(after + scale * torch.randn_like(after))).all()


def test_a_threshold_of_zero_changes_nothing() -> None:
    conv = nn.Conv2d(2, 3, 3)
    with torch.no_grad():
        conv.weight[:, 0, 1, 1] = 0
    before = conv.weight.detach().clone()
    pruning.proximal_step(conv, 0.0)
    assert torch.equal(conv.weight, before)


@pytest.mark.parametrize("threshold", [-1e-3, math.nan, math.inf])
def test_a_threshold_that_cannot_be_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold: expected a finite number"):
        pruning.proximal_step(nn.Conv2d(2, 3, 3), threshold)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_training_finds_the_columns_that_matter(optimizer: type[torch.optim.Optimizer]) -> None:
    """A layer learns from one that has values in four columns, and is left with these."""
    teacher, student = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)
    relevant = torch.zeros(27, dtype=torch.bool)
    relevant[[2, 11, 13, 26]] = True
    with torch.no_grad():
        teacher.weight.mul_(relevant.view(3, 3, 3))
    training = optimizer(student.parameters(), lr=0.02)
    for _ in range(150):
        x = torch.randn(16, 3, 7, 7)
        training.zero_grad()
        (student(x) - teacher(x)).square().mean(dim=(0, 2, 3)).sum().backward()
        training.step()
        pruning.proximal_step(student, 0.02 * 0.15)
    assert torch.equal(pruning.column_norms(student.weight)[0] > 0, relevant)
