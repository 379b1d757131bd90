"""The training loop of the examples: evaluation, augmentation, and epochs that report their progress."""

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import count, islice
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
"""New images of a batch's, with random numbers from the generator."""

Batch = tuple[Tensor, Any]
"""Images, and what their scores are compared with: labels, or whatever an objective expects."""


def evaluate(network: nn.Module, split: Split, batch_size: int = 500) -> float:
    """The share (0..1) of ``split`` that ``network`` classifies right, computed in eval mode."""
    right = scores_of(network, split.images, batch_size).argmax(dim=1) == split.labels
    return int(right.sum()) / len(split.labels)


@torch.inference_mode()
def scores_of(network: nn.Module, images: Tensor, batch_size: int = 500) -> Tensor:
    """The scores (N, classes) that ``network`` gives ``images``, computed in eval mode."""
    was_training = network.training
    network.eval()
    scores = torch.cat([network(some) for some in images.split(batch_size)])
    network.train(was_training)
    return scores


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


def train_one_cycle(
    network: nn.Module,
    split: Split,
    *,
    steps: int,
    learning_rate: float = PEAK_LEARNING_RATE,
    groups: list[dict[str, Any]] | None = None,
    **options: Any,
) -> list[float]:
    """`train`s by SGD on a one-cycle schedule, towards smoothed labels unless an ``objective`` is given.

    ``groups`` are `one_cycle`'s; without them all parameters are trained, with ``learning_rate`` at the peak.
    ``options`` are `train`'s.
    """
    if groups is None:
        groups = [{"params": list(network.parameters()), "max_lr": learning_rate}]
    optimizer, schedule = one_cycle(groups, steps)
    return train(
        network,
        split,
        optimizer,
        steps=steps,
        schedule=schedule,
        label_smoothing=LABEL_SMOOTHING,
        **options,
    )


def train(
    network: nn.Module,
    split: Split,
    optimizer: torch.optim.Optimizer,
    *,
    steps: int,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    augmentation: Augmentation = augment,
    description: str | None = "training",
    after_step: Callable[[], None] | None = None,
    after_epoch: Callable[[int], str] | None = None,
    **options: Any,
) -> list[float]:
    """Trains ``network`` in place for ``steps`` batches of augmented images, in an order that ``seed`` fixes.

    ``after_epoch`` gets the number of passes made over ``split`` and returns a remark to show. The other
    arguments and the result are those of `train_on`.
    """
    taken, pass_length = count(1), steps_per_epoch(split, batch_size)

    def step_taken() -> None:
        epoch, rest = divmod(next(taken), pass_length)
        if after_step is not None:
            after_step()
        if after_epoch is not None and rest == 0:
            tqdm.write(f"{description}: epoch {epoch}, {after_epoch(epoch)}")
            network.train()

    batches = augmented(split, batch_size, torch.Generator().manual_seed(seed), augmentation)
    return train_on(
        network,
        batches,
        optimizer,
        steps=steps,
        description=description,
        after_step=step_taken,
        **options,
    )


def augmented(
    split: Split, batch_size: int, generator: torch.Generator, augmentation: Augmentation = augment
) -> Iterator[Batch]:
    """Batches of augmented images and their labels without end, each pass over ``split`` in a new order."""
    while True:
        for chosen in torch.randperm(len(split.labels), generator=generator).split(batch_size):
            yield augmentation(split.images[chosen], generator), split.labels[chosen]


def train_on(
    network: nn.Module,
    batches: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    *,
    steps: int,
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
    label_smoothing: float = 0.0,
    objective: Callable[[Tensor, Any, Tensor], Tensor] | None = None,
    description: str | None = "training",
    before_step: Callable[[int], None] | None = None,
    after_step: Callable[[], None] | None = None,
) -> list[float]:
    """Trains ``network`` in place on the first ``steps`` of ``batches``.

    ``objective`` makes a loss of the network's scores, the labels and the images; without one it is the
    cross entropy. ``schedule`` is stepped once per batch; ``before_step`` gets the step, from 0;
    ``after_step`` nothing. With ``description`` None there is no progress bar. Returns the loss of every
    step; ends early, with that loss last, if it is no longer finite.
    """
    losses: list[float] = []
    network.train()
    with tqdm(total=steps, desc=description, unit="step", leave=False, disable=description is None) as bar:
        for step, (images, labels) in enumerate(islice(batches, steps)):
            if before_step is not None:
                before_step(step)
            optimizer.zero_grad(set_to_none=True)
            scores = network(images)
            if objective is not None:
                loss = objective(scores, labels, images)
            else:
                loss = cross_entropy(scores, labels, label_smoothing=label_smoothing)
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                break
            loss.backward()
            optimizer.step()
            if schedule is not None:
                schedule.step()
            bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
            bar.update()
            if after_step is not None:
                after_step()
    return losses


def steps_per_epoch(split: Split, batch_size: int) -> int:
    """The number of batches in one pass over ``split``, the last one perhaps short."""
    return math.ceil(len(split.labels) / batch_size)
