"""Columns that are zero, and stay so while the model trains."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from cnnkern.modules import unwrapped

from .layers import by_group, convolutions, over_weight
from .scores import Criterion, l2, scores_by
from .selection import Density, strongest


def prune(
    model: nn.Module,
    density: Density,
    *,
    criterion: Criterion = l2,
    scope: str = "layer",
    layers: Sequence[str] | None = None,
) -> Pruner:
    """Set the weakest columns of the model to zero, at once and in place; the arguments are the `Pruner`'s.

    Fine-tuning comes with the pruner that is returned, speed with `convert`.
    """
    pruner = Pruner(model, layers)
    pruner.prune(density, criterion=criterion, scope=scope)
    return pruner


class Pruner:
    """Prunes columns of a model's convolutions, and holds them at zero while the model trains.

    The masks are kept here and not in the model, whose `state_dict` stays as it was. A model inside
    `DistributedDataParallel` is pruned the same in every process, since the weights are the same.

    Args:
        model: it is changed in place; its convolutions have to stay the modules that they are.
        layers: names of `torch.nn.Conv2d` in it; all, if None.

    Attributes:
        masks: {name: (G, C/G·kH·kW) bool}, True for a column that is not pruned.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str] | None = None) -> None:
        self.model = unwrapped(model)
        self._convs = convolutions(self.model, layers)
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self.masks = {name: _all_kept(conv) for name, conv in self._convs.items()}

    @property
    def densities(self) -> dict[str, float]:
        """The share of the columns of each layer that is not pruned."""
        return {name: mask.double().mean().item() for name, mask in self.masks.items()}

    def prune(self, density: Density, *, criterion: Criterion = l2, scope: str = "layer") -> None:
        """Prune until `density` is left. What is pruned stays pruned, even if a higher density is asked for.

        Args:
            density: the share of columns to keep, 0 to 1, per layer also {name: share}.
            criterion: what makes a column strong: `l2`, `taylor(...)`, `fisher(...)` or a function of your
                own, (model, layers) -> {name: scores (G, C/G·kH·kW)}.
            scope: "layer", every layer keeps this share; "global", all together do, by the scores alone.

        Raises ValueError for a density or a scope that cannot be, and for scores that are not numbers.
        """
        scores = scores_by(criterion, self.model, self._convs)
        ranked = {
            name: scores[name].masked_fill(~mask.to(scores[name].device), -torch.inf)
            for name, mask in self.masks.items()
        }
        for name, mask in strongest(ranked, density, scope).items():
            self.masks[name] &= mask.to(self.masks[name].device)
        self.zero()

    @torch.no_grad()
    def zero(self) -> None:
        """Set the pruned columns to zero; for weights that were written to by something else than a held
        optimizer, such as `load_state_dict`."""
        for name, conv in self._convs.items():
            by_group(conv.weight, conv).masked_fill_(self._pruned(name), 0)

    def hold(self, *optimizers: torch.optim.Optimizer) -> None:
        """From now on the pruned columns are zero after each step of any of `optimizers`, whatever momentum
        and weight decay want, and their gradients are zero, so that norms of gradients leave them out.

        Columns that are pruned later are held as well. It ends what an earlier call began.
        """
        self.release()
        for optimizer in optimizers:
            self._hooks.append(optimizer.register_step_post_hook(lambda *_: self.zero()))
        for name, conv in self._convs.items():
            if conv.weight.requires_grad:
                self._hooks.append(conv.weight.register_hook(partial(self._without_pruned, name)))

    def release(self) -> None:
        """Hold nothing any more."""
        while self._hooks:
            self._hooks.pop().remove()

    def state_dict(self) -> dict[str, Tensor]:
        """The masks, by the names of the layers."""
        return {name: mask.clone() for name, mask in self.masks.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over masks that `state_dict` gave, and set what they prune to zero.

        Raises ValueError if they are not for these layers.
        """
        shapes = {name: tuple(mask.shape) for name, mask in self.masks.items()}
        given = {name: tuple(mask.shape) for name, mask in state.items()}
        if given != shapes:
            raise ValueError(f"state: expected masks of shapes {shapes}, got {given}")
        self.masks = {
            name: state[name].to(mask.device, torch.bool, copy=True) for name, mask in self.masks.items()
        }
        self.zero()

    def _pruned(self, name: str) -> Tensor:
        return over_weight(~self.masks[name], self._convs[name])

    def _without_pruned(self, name: str, gradient: Tensor) -> Tensor:
        masked = by_group(gradient, self._convs[name]).masked_fill(self._pruned(name), 0)
        return masked.flatten(0, 1)


def _all_kept(conv: nn.Conv2d) -> Tensor:
    columns = conv.weight[0].numel()
    return torch.ones(conv.groups, columns, dtype=torch.bool, device=conv.weight.device)
