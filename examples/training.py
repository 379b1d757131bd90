"""The training loop of the examples: evaluation, augmentation, and epochs that report their progress."""

import math
from collections.abc import Callable
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from tqdm import tqdm

from examples.datasets import MEAN, STD, Split

SHIFT = 2
BATCH_SIZE = 128
PEAK_LEARNING_RATE = 0.1
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
LABEL_SMOOTHING = 0.05
Augmentation = Callable[[Tensor, torch.Generator], Tensor]


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
    number, _, height, width = images.shape
    black = -MEAN / STD
    padded = pad(images, (SHIFT,) * 4, value=black)
    rows, columns = (
        torch.randint(0, 2 * SHIFT + 1, (number, 1), generator=generator) + torch.arange(size)
        for size in (height, width)
    )
    mirrored = torch.rand(number, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    batch = torch.arange(number)[:, None, None]
    return padded[batch, 0, rows[:, :, None], columns[:, None, :]].unsqueeze(1)


def one_cycle(
    groups: list[dict[str, Any]], steps: int
) -> tuple[torch.optim.SGD, torch.optim.lr_scheduler.OneCycleLR]:
    """SGD on a one-cycle schedule over ``steps`` >= 3, for groups of "params", their "max_lr" and perhaps
    other settings of SGD."""
    rates = [group["max_lr"] for group in groups]
    optimizer = torch.optim.SGD(
        [{name: value for name, value in group.items() if name != "max_lr"} for group in groups],
        lr=PEAK_LEARNING_RATE,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        nesterov=True,
    )
    # OneCycleLR divides by the length of its rise, which is one step less than its share.
    rise = max(0.25, 2 / steps)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps, pct_start=rise)
    return optimizer, schedule


def train(
    network: nn.Module,
    split: Split,
    optimizer: torch.optim.Optimizer,
    *,
    steps: int,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
    label_smoothing: float = 0.0,
    augmentation: Augmentation = augment,
    objective: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
    description: str | None = "training",
    before_step: Callable[[int], None] | None = None,
    after_step: Callable[[], None] | None = None,
    after_epoch: Callable[[int], str] | None = None,
) -> list[float]:
    """Trains ``network`` in place for ``steps`` batches of augmented images, in an order that ``seed`` fixes.

    ``augmentation`` makes new images of a batch's, with the random numbers that it is given.
    ``objective`` makes a loss of the network's scores, the labels and the images; without one it is the
    cross entropy. ``schedule`` is stepped once per batch; ``before_step`` gets the step, from 0;
    ``after_step`` nothing; ``after_epoch`` gets the number of passes made over ``split`` and returns a remark
    to show. With ``description`` None there is no progress bar. Returns the loss of every step; ends early,
    with that loss last, if it is no longer finite.
    """
    generator = torch.Generator().manual_seed(seed)
    losses: list[float] = []
    network.train()
    with tqdm(total=steps, desc=description, unit="step", leave=False, disable=description is None) as bar:
        for epoch in count(1):
            for chosen in torch.randperm(len(split.labels), generator=generator).split(batch_size):
                if len(losses) == steps:
                    return losses
                if before_step is not None:
                    before_step(len(losses))
                images = augmentation(split.images[chosen], generator)
                optimizer.zero_grad(set_to_none=True)
                scores, labels = network(images), split.labels[chosen]
                if objective is not None:
                    loss = objective(scores, labels, images)
                else:
                    loss = cross_entropy(scores, labels, label_smoothing=label_smoothing)
                losses.append(loss.item())
                if not math.isfinite(losses[-1]):
                    return losses
                loss.backward()
                optimizer.step()
                if schedule is not None:
                    schedule.step()
                bar.set_postfix(epoch=epoch, loss=f"{losses[-1]:.3f}", refresh=False)
                bar.update()
                if after_step is not None:
                    after_step()
            if after_epoch is not None:
                bar.write(f"{description}: epoch {epoch}, {after_epoch(epoch)}")
                network.train()


def steps_per_epoch(split: Split, batch_size: int) -> int:
    """The number of batches in one pass over ``split``, the last one perhaps short."""
    return math.ceil(len(split.labels) / batch_size)
