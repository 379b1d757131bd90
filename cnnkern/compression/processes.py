"""The processes that search together, such as those that `torchrun` starts: who does what, while who waits.

Work that takes no clock is dealt out to all of them, and everybody gets all of its results. What is timed is
done by the first process alone, while the others wait and compute nothing.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch.distributed as dist

LONGEST_WAIT = timedelta(days=1)  # for one another's fits

Job = TypeVar("Job")
Result = TypeVar("Result")


class Processes:
    """One of `size` processes, number `rank`; all of them call the same methods in the same order.

    A method that raises in one of them raises in all.
    """

    def __init__(self, rank: int = 0, size: int = 1, group: Any = None) -> None:
        self.rank, self.size, self._group = rank, size, group

    def first(self, do: Callable[[], Result]) -> Result:
        """What `do` gives in the first process, once all the others have come here to wait for it."""
        if self.size == 1:
            return do()
        dist.barrier(self._group)
        outcome = [_Outcome.of(do) if self.rank == 0 else None]
        dist.broadcast_object_list(outcome, src=0, group=self._group)
        return outcome[0].result()

    def spread(self, jobs: Sequence[Job], do: Callable[[Job], Result]) -> list[Result]:
        """do(job) for every job, in their order; each is done in one of the processes."""
        if self.size == 1:
            return [do(job) for job in jobs]
        own = _Outcome.of(lambda: [do(job) for job in jobs[self.rank :: self.size]])
        outcomes: list[Any] = [None] * self.size
        dist.all_gather_object(outcomes, own, group=self._group)
        parts = [outcome.result() for outcome in outcomes]
        return [parts[number % self.size][number // self.size] for number in range(len(jobs))]

    @property
    def hides_progress(self) -> bool | None:
        """As tqdm's `disable`: one process shows how far it is, and only where somebody looks."""
        return None if self.rank == 0 else True


@contextmanager
def together() -> Iterator[Processes]:
    """All processes of `torch.distributed`, if it is initialized here; else this one."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        yield Processes()
        return
    # of its own: the default one may not be for the CPU, and its patience may be short
    group = dist.new_group(backend="gloo", timeout=LONGEST_WAIT)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), group)
    finally:
        dist.destroy_process_group(group)


class _Outcome(NamedTuple):
    """What a function gave, or what it raised."""

    value: Any
    error: Exception | None

    @classmethod
    def of(cls, do: Callable[[], Any]) -> _Outcome:
        try:
            return cls(do(), None)
        except Exception as error:
            return cls(None, _sendable(error))

    def result(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


def _sendable(error: Exception) -> Exception:
    """The error, or what it says where it cannot be sent to another process, which would wait for it."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:  # whatever the making of somebody's exception raises
        return RuntimeError(f"{type(error).__name__}: {error}")
