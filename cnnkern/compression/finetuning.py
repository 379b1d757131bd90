"""The built-in fine-tuning: towards the original's outputs, at rates at which CP layers do not explode.

A step of length η on one factor of a CP layer moves the weight W' that the layer stands for by η·A·Aᵀ·G,
where G is the gradient of W' and A the linear map from that factor to W'. A dense layer would move by η·G;
the factor's step is longer by up to λ, the largest eigenvalue of AᵀA, which is the elementwise product of the
other factors' Gram matrices. Degenerate fits have a λ of thousands, and even good ones of 2 to 10: that is
why CP layers explode where the dense ones trained well (Lebedev et al. 2015 met it). Dividing each factor's
rate by its λ, and by four since four factors move at once, makes no step longer than the dense one's. It does
not depend on how norms are spread over the factors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from cnnkern.compression.int8 import trainable
from cnnkern.compression.running import call
from cnnkern.distillation import distillation_loss
from cnnkern.nn import CPConv2d

# In the order of alternating training.
FACTORS = ("factor_k", "factor_c", "factor_h", "factor_w")
MOMENTUM = 0.9
LARGEST_GRADIENT = 5.0  # norm over all parameters, beyond which a step's gradient is scaled down

Loss = Callable[[Tensor, Tensor, Any], Tensor]


def factor_rates(layer: CPConv2d) -> dict[str, float]:
    """For each factor, the share of a dense layer's learning rate at which its step is not longer.

    It is 1/λ, as the head of this file says. ValueError for a layer with groups.
    """
    if layer.groups != 1:
        raise ValueError(f"layer: expected groups=1, got {layer.groups}")
    grams = {}
    for name in FACTORS:
        factor = getattr(layer, name).detach().double()
        rows = factor.T if name == "factor_k" else factor
        grams[name] = rows @ rows.T
    others = {name: math.prod(gram for other, gram in grams.items() if other != name) for name in FACTORS}
    return {name: 1 / float(torch.linalg.eigvalsh(product)[-1]) for name, product in others.items()}


class Distill:
    """Trains a compressed model towards the outputs of the original and, where there are any, the labels.

    To be handed to `cnnkern.compress(..., finetune=...)`, or called as finetune(model, original).

    Args:
        batches: pairs (inputs, labels), gone through again and again: a list or a DataLoader; inputs as
            the model is called with, labels whatever `loss` takes, or None.
        steps: how many batches in all.
        learning_rate: its peak, on a one-cycle schedule of SGD with momentum; that of the factors of a CP
            layer is divided by what makes their steps longer (`factor_rates`).
        loss: (model's output, original's output, labels) -> scalar. `cnnkern.distillation.distillation_loss`
            is for logits (N, classes).
        layer_by_layer: train the layers that are not the original's one after the other, each for `steps` and
            with all else held as it is; all parameters together, if False.

    Gradients are clipped. Training ends early where the loss is not finite any more. Int8 layers between
    float32 ones are trained as real ones on their grids.

    Where `torch.distributed` is initialized, all its processes train one model together, each calling this
    with batches of its own, as under `torch.nn.parallel.DistributedDataParallel`.
    """

    def __init__(
        self,
        batches: Iterable[tuple[Any, Any]],
        *,
        steps: int,
        learning_rate: float = 0.02,
        loss: Loss = distillation_loss,
        layer_by_layer: bool = False,
    ) -> None:
        if steps < 1:
            raise ValueError(f"steps: expected at least 1, got {steps!r}")
        if not 0 < learning_rate < math.inf:
            raise ValueError(f"learning_rate: expected a positive number, got {learning_rate!r}")
        self.batches, self.steps, self.learning_rate, self.loss = batches, steps, learning_rate, loss
        self.layer_by_layer = layer_by_layer

    def __call__(self, model: nn.Module, original: nn.Module) -> None:
        """Train `model` in place and leave it in eval mode; `original` gives the targets, in eval mode."""
        original.eval()
        names = _replaced(model, original)
        with trainable(model) as network:
            network.train()
            parts = [network.get_submodule(name) for name in names] if self.layer_by_layer else [network]
            for part in parts:
                with _others_held(network, part):
                    self._train(network, original)
        model.eval()

    def _train(self, model: nn.Module, original: nn.Module) -> None:
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not parameters:
            return
        optimizer = torch.optim.SGD(
            parameter_groups(model, self.learning_rate), momentum=MOMENTUM, nesterov=True
        )
        rates = [group["lr"] for group in optimizer.param_groups]
        # OneCycleLR divides by the length of its rise, which is one step less than its share.
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, rates, total_steps=max(3, self.steps), pct_start=max(0.25, 2 / max(3, self.steps))
        )
        together = _in_several_processes()
        network = DistributedDataParallel(model) if together else model
        steps = tqdm(self._endless(), total=self.steps, desc="fine-tuning", leave=False, disable=None)
        for inputs, labels in islice(steps, self.steps):
            with torch.no_grad():
                target = call(original, inputs)
            optimizer.zero_grad(set_to_none=True)
            loss = self.loss(call(network, inputs), target, labels)
            if not _finite_everywhere(loss, together):
                break
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, LARGEST_GRADIENT)
            optimizer.step()
            schedule.step()

    def _endless(self) -> Iterable[tuple[Any, Any]]:
        while True:
            batch = None
            for batch in self.batches:
                yield batch
            if batch is None:
                raise ValueError("batches: expected at least one, got none")


def _replaced(model: nn.Module, original: nn.Module) -> list[str]:
    """Names of the layers that stand in the places of others of the original, in the order of the model."""
    before = dict(original.named_modules())
    return [
        name
        for name, module in model.named_modules()
        if name in before and type(module) is not type(before[name])
    ]


@contextmanager
def _others_held(model: nn.Module, part: nn.Module) -> Iterator[None]:
    """Only the parameters of a part of the model ask for gradients, for as long as the block lasts."""
    own = set(part.parameters())
    held = [each for each in model.parameters() if each.requires_grad and each not in own]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)


def _in_several_processes() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _finite_everywhere(loss: Tensor, together: bool) -> bool:
    """Whether the loss is finite, in all processes if they train together: else one waited for another."""
    finite = torch.isfinite(loss.detach()).all().float()
    if together:
        dist.all_reduce(finite, dist.ReduceOp.MIN)
    return bool(finite)


def parameter_groups(model: nn.Module, learning_rate: float) -> list[dict[str, Any]]:
    """For an optimizer: each factor of a CP layer without groups at a rate of its own, the rest together."""
    groups, scaled = [], set()
    for layer in model.modules():
        if isinstance(layer, CPConv2d) and layer.groups == 1:
            for name, rate in factor_rates(layer).items():
                factor = getattr(layer, name)
                scaled.add(factor)
                groups.append({"params": [factor], "lr": learning_rate * rate / len(FACTORS)})
    rest = [parameter for parameter in model.parameters() if parameter not in scaled]
    return [{"params": rest, "lr": learning_rate}, *groups] if rest else groups
