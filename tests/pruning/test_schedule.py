"""Schedules: which densities when, and the same result after a break as without one."""

import io
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from cnnkern import pruning
from cnnkern.pruning import Pruner, Schedule


def test_iterative_removes_a_fraction_of_the_rest() -> None:
    assert pruning.iterative(0.2, 3) == pytest.approx([0.8, 0.64, 0.512])


def test_gradual_falls_in_equal_steps() -> None:
    assert pruning.gradual(0.1, 3) == pytest.approx([1.0, 0.7, 0.4, 0.1])
    assert pruning.gradual(0.1, 3)[-1] == 0.1


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    return (model(batch) - 1).square().mean()


class Run:
    """A small network in training: Taylor scores, momentum, three rounds of three steps."""

    def __init__(self, batches: Sequence[Tensor]) -> None:
        torch.manual_seed(0)
        self.batches = batches
        self.model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3, groups=2)).double()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        pruner = Pruner(self.model)
        pruner.hold(self.optimizer)
        self.schedule = Schedule(
            pruner,
            pruning.iterative(0.3, 3),
            every=3,
            criterion=pruning.taylor(loss, batches),
            scope="global",
        )
        self.parts = {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule}

    def steps(self, first: int, last: int) -> list[bool]:
        began = []
        for step in range(first, last):
            began.append(self.schedule.step())
            self.optimizer.zero_grad()
            loss(self.model, self.batches[step % len(self.batches)]).backward()
            self.optimizer.step()
        return began


@pytest.fixture
def batches() -> Tensor:
    return torch.randn(2, 4, 2, 7, 7, dtype=torch.float64)


def test_a_round_begins_every_so_many_steps(batches: Tensor) -> None:
    run = Run(batches)
    assert not run.schedule.finished
    assert run.steps(0, 6) == [True, False, False, True, False, False]
    assert not run.schedule.finished
    assert run.steps(6, 12) == [True, False, False, False, False, False]
    assert run.schedule.finished
    kept = sum(int(mask.sum()) for mask in run.schedule.pruner.masks.values())
    assert kept in (24, 25)  # of 72, 0.7³; the grouped layer's columns go in pairs


@pytest.mark.parametrize("broken_off", [2, 3, 4, 7])
def test_a_run_resumes_to_the_same_result(batches: Tensor, broken_off: int) -> None:
    whole, first, second = Run(batches), Run(batches), Run(batches)
    whole.steps(0, 10)
    first.steps(0, broken_off)
    file = io.BytesIO()
    torch.save({name: part.state_dict() for name, part in first.parts.items()}, file)
    file.seek(0)
    for name, state in torch.load(file, weights_only=True).items():
        second.parts[name].load_state_dict(state)
    second.steps(broken_off, 10)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], value)
    for name, mask in whole.schedule.pruner.masks.items():
        assert torch.equal(second.schedule.pruner.masks[name], mask)


def test_a_schedule_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="fraction: expected a share from 0 to 1, got 2"):
        pruning.iterative(2, 2)
    with pytest.raises(ValueError, match="density: expected a share from 0 to 1, got -1"):
        pruning.gradual(-1, 2)
    for densities in (pruning.iterative, pruning.gradual):
        with pytest.raises(ValueError, match="rounds: expected at least 1, got 0"):
            densities(0.5, 0)
    with pytest.raises(ValueError, match="every: expected at least 1 step, got 0"):
        Schedule(Pruner(nn.Conv2d(1, 1, 1)), [0.5], every=0)
