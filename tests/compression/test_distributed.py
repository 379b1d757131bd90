"""Two processes search as one does, only the first of them times, and they fine-tune one model together."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cnnkern
from cnnkern.compression import Distill, bonds, candidates, compressor, planning
from cnnkern.compression.fits import Fits
from cnnkern.compression.processes import Processes, together
from tests.compression.clocks import script
from tests.compression.nets import chain

X = torch.randn(2, 3, 20, 20, generator=torch.Generator().manual_seed(3))


def worker(rank: int, folder: str) -> None:
    """One of two processes; keeps what each part found."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    trained = train(X.double().chunk(2)[rank])
    torch.save((trained, share(), search(rank)), f"{folder}/{rank}.pt")
    # a loss that is not finite in one of them ends the training of both
    train(X.double() * (float("nan") if rank else 1.0))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple, tuple]:
    """What the two processes kept, part by part."""
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(worker, (str(folder),), nprocs=2)
    return tuple(
        zip(*(torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)), strict=True)
    )


def train(images: Tensor) -> dict[str, Tensor]:
    """A few steps of distillation on a process's own images."""
    torch.manual_seed(8)
    model, original = chain().double(), chain().double()
    model[2] = cnnkern.CPConv2d(16, 48, 5, padding=2, rank=8, dtype=torch.float64)
    Distill([(images, None)], steps=4, loss=lambda y, wanted, _: (y - wanted).square().mean())(
        model, original
    )
    return model.state_dict()


def test_they_train_as_one(both: tuple[tuple, ...]):
    first, second = both[0]
    for name, weight in train(X.double()).items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], weight)


class Refusal(Exception):
    """An error that cannot be made again from what it keeps."""

    def __init__(self, name: str, got: str) -> None:
        super().__init__(f"{name}: got {got}")


def refuse_both() -> None:
    raise Refusal("job", "nothing")


def share() -> list[Any]:
    """The results of what is dealt out, of what the first process does, and the errors of each."""
    with together() as processes:
        found = [processes.spread([1, 2, 3], lambda job: job * 10), processes.first(lambda: processes.rank)]
        for failing in (
            lambda: processes.spread([1, 0], lambda job: 1 / job),
            lambda: processes.first(refuse_both),
        ):
            try:
                failing()
            except (ZeroDivisionError, RuntimeError) as error:
                found.append(str(error))
    return found


def test_results_and_errors_are_those_of_all(both: tuple[tuple, ...]):
    expected = [[10, 20, 30], 0, "division by zero", "Refusal: job: got nothing"]
    assert both[1] == (expected, expected)
    assert Processes().spread([1, 2], lambda job: -job) == [-1, -2]


def search(rank: int) -> tuple[int, int, dict, Tensor]:
    """How many fits and losses this process made, the report, and what the network gives."""
    script(setattr)
    if rank:

        def refuse(*_: Any, **__: Any) -> None:
            raise AssertionError("only the first process may time")

        for module in (bonds, compressor, planning):
            module.timed_together = refuse
        candidates.interleave = compressor.profile = compressor.interleave = refuse
    made, get = [], Fits.get
    Fits.get = lambda *arguments: (made.append(arguments), get(*arguments))[1]
    evaluated = []

    def evaluate(model: nn.Module) -> float:
        evaluated.append(model)
        return sum(parameter.numel() for parameter in model.parameters()) / 1e6

    options = {"methods": ("column_sparse", "int8"), "evaluate": evaluate, "seconds": 1e-3}
    faster, report = cnnkern.compress(chain(), X, target_speedup=1000, **options)
    with torch.no_grad():
        return len(made), len(evaluated), report.to_dict(), faster(X)


def test_they_find_one_network(both: tuple[tuple, ...]):
    (made, evaluated, report, y), (other_made, other_evaluated, other_report, other_y) = both[2]
    assert report["changed"]
    assert report == other_report
    assert torch.equal(y, other_y)
    assert abs(made - other_made) <= 3  # one for each layer with an odd number of candidates
    assert evaluated > 0
    assert other_evaluated > 0
