"""Pruning in rounds, with training between them.

Menghani, Efficient deep learning: a survey, 2021, algorithm 1: for N rounds, score, remove a fraction p of
what is left, fine-tune. The gradual scheme of Lebedev & Lempitsky, CVPR 2016, has the same form: while the
group lasso makes columns small, a threshold below which they are pruned rises, so that a growing share is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .pruner import Pruner
from .scores import Criterion, l2
from .selection import Density


def iterative(fraction: float, rounds: int) -> list[float]:
    """The densities after 1, 2, ... rounds that each prune a `fraction` of what is left: (1 − fraction)^i.

    Raises ValueError for a fraction outside [0, 1] or fewer than one round.
    """
    _check_share("fraction", fraction)
    _check_rounds(rounds)
    return [(1 - fraction) ** i for i in range(1, rounds + 1)]


def gradual(density: float, rounds: int) -> list[float]:
    """Densities that fall in equal steps from 1, where training begins, to `density` after `rounds` rounds.

    Raises ValueError for a density outside [0, 1] or fewer than one round.
    """
    _check_share("density", density)
    _check_rounds(rounds)
    return [1 - (1 - density) * i / rounds for i in range(rounds)] + [density]


class Schedule:
    """Calls `pruner.prune` with one density after the other, `every` so many steps of training.

        schedule = Schedule(pruner, iterative(fraction=0.2, rounds=5), every=100)
        pruner.hold(optimizer)
        for batch in batches:
            schedule.step()
            ... forward, backward, optimizer.step()

    Args:
        pruner: holds the masks.
        densities: one a round, the first before the first step; `iterative`, `gradual` or a list of your own,
            of shares or of {name: share}.
        every: steps of training in a round.
        criterion, scope: as `Pruner.prune` takes them.
    """

    def __init__(
        self,
        pruner: Pruner,
        densities: Sequence[Density],
        every: int,
        *,
        criterion: Criterion = l2,
        scope: str = "layer",
    ) -> None:
        if every < 1:
            raise ValueError(f"every: expected at least 1 step, got {every}")
        self.pruner, self.densities, self.every = pruner, list(densities), every
        self.criterion, self.scope = criterion, scope
        self._steps = 0

    @property
    def finished(self) -> bool:
        """Whether the last density is reached; training goes on as long as one likes."""
        return self._steps > (len(self.densities) - 1) * self.every

    def step(self) -> bool:
        """To be called before each step of training; whether it began a round, and pruned."""
        turn, within = divmod(self._steps, self.every)
        begins = within == 0 and turn < len(self.densities)
        if begins:
            self.pruner.prune(self.densities[turn], criterion=self.criterion, scope=self.scope)
        self._steps += 1
        return begins

    def state_dict(self) -> dict[str, Any]:
        """The steps that were taken and the pruner's masks: an int and tensors."""
        return {"steps": self._steps, "masks": self.pruner.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was called, with a schedule and a model that were built the same.

        Raises ValueError if the masks are not for the pruner's layers.
        """
        self.pruner.load_state_dict(state["masks"])
        self._steps = int(state["steps"])


def _check_share(name: str, share: float) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"{name}: expected a share from 0 to 1, got {share!r}")


def _check_rounds(rounds: int) -> None:
    if rounds < 1:
        raise ValueError(f"rounds: expected at least 1, got {rounds}")
