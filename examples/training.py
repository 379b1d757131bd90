"""The training loop of the examples: evaluation, augmentation, and epochs that report their progress."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from examples.datasets import MEAN, STD, Split

SHIFT = 2


@torch.inference_mode()
def evaluate(network: nn.Module, split: Split, batch_size: int = 500) -> float:
    """The share (0..1) of ``split`` that ``network`` classifies right, computed in eval mode."""
    was_training = network.training
    network.eval()
    right = 0
    for images, labels in zip(split.images.split(batch_size), split.labels.split(batch_size), strict=True):
        right += int((network(images).argmax(dim=1) == labels).sum())
    network.train(was_training)
    return right / len(split.labels)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each of ``images`` mirrored with probability 1/2 and moved by up to SHIFT pixels, black at the rim."""
    count, _, height, width = images.shape
    black = -MEAN / STD
    padded = functional.pad(images, (SHIFT,) * 4, value=black)
    rows, columns = (
        torch.randint(0, 2 * SHIFT + 1, (count, 1), generator=generator) + torch.arange(size)
        for size in (height, width)
    )
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    batch = torch.arange(count)[:, None, None]
    return padded[batch, 0, rows[:, :, None], columns[:, None, :]].unsqueeze(1)


def train_epochs(
    network: nn.Module,
    split: Split,
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int,
    batch_size: int = 128,
    seed: int = 0,
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
    label_smoothing: float = 0.0,
    augmented: bool = True,
    description: str = "training",
    after_epoch: Callable[[int], str] | None = None,
) -> list[float]:
    """Trains ``network`` in place for ``epochs`` passes over ``split`` in an order that ``seed`` fixes.

    ``schedule`` is stepped once per batch; ``after_epoch`` gets the epoch, from 1, and may return a remark to
    show. Returns the loss of every step; ends early, with that loss last, if it is no longer finite.
    """
    generator = torch.Generator().manual_seed(seed)
    count = len(split.labels)
    losses: list[float] = []
    network.train()
    with tqdm(
        total=epochs * steps_per_epoch(split, batch_size), desc=description, unit="step", leave=False
    ) as bar:
        for epoch in range(1, epochs + 1):
            for chosen in torch.randperm(count, generator=generator).split(batch_size):
                images = split.images[chosen]
                if augmented:
                    images = augment(images, generator)
                optimizer.zero_grad(set_to_none=True)
                loss = functional.cross_entropy(
                    network(images), split.labels[chosen], label_smoothing=label_smoothing
                )
                losses.append(loss.item())
                if not math.isfinite(losses[-1]):
                    return losses
                loss.backward()
                optimizer.step()
                if schedule is not None:
                    schedule.step()
                bar.update()
                bar.set_postfix(epoch=f"{epoch}/{epochs}", loss=f"{losses[-1]:.3f}", refresh=False)
            remark = after_epoch(epoch) if after_epoch is not None else None
            if remark:
                bar.write(f"{description}: epoch {epoch}/{epochs}, {remark}")
            network.train()
    return losses


def steps_per_epoch(split: Split, batch_size: int) -> int:
    """The number of batches in one pass over ``split``, the last one perhaps short."""
    return math.ceil(len(split.labels) / batch_size)
