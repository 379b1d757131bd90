"""Two processes that train one model prune it as one process does."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cnnkern import pruning
from cnnkern.pruning import Pruner, Schedule


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    return (model(batch) - 1).square().mean()


def train(
    model: nn.Module, images: Tensor, scored: list[Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Six steps with the group lasso and three rounds of pruning, in float64; the masks, the weights."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    pruner = Pruner(model)
    pruner.hold(optimizer)
    criterion = pruning.taylor(loss, scored)
    schedule = Schedule(pruner, pruning.gradual(0.3, 2), every=2, criterion=criterion, scope="global")
    for _ in range(6):
        schedule.step()
        optimizer.zero_grad()
        (loss(model, images) + 1e-3 * pruning.group_lasso(model)).backward()
        optimizer.step()
        pruning.proximal_step(model, 1e-4)
    return pruner.state_dict(), pruner.model.state_dict()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3, groups=2)).double()


def worker(rank: int, folder: str, images: Tensor) -> None:
    """One of two processes, with half of the images."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    half = images.chunk(2)[rank]
    torch.save(train(DistributedDataParallel(network()), half, [half]), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_prune_as_one(tmp_path: Path) -> None:
    images = torch.randn(4, 2, 7, 7, dtype=torch.float64)
    masks, weights = train(network(), images, list(images.chunk(2)))
    torch.multiprocessing.spawn(worker, (str(tmp_path), images), nprocs=2)
    (masks_0, weights_0), (masks_1, weights_1) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, mask in masks.items():
        assert torch.equal(masks_0[name], mask)
        assert torch.equal(masks_1[name], mask)
    for name, weight in weights.items():
        assert torch.equal(weights_0[name], weights_1[name])
        torch.testing.assert_close(weights_0[name], weight)
