"""How much each column of a weight matrix matters: its norm, or what the loss would lose without it.

A criterion is a function (model, layers) -> {name: scores (G, C/G·kH·kW)}, float64; the higher, the more a
column matters. `l2` is one, `taylor(...)` and `fisher(...)` return one, and users may bring their own.

Taking a column w away changes the loss by −gᵀw + ½ wᵀHw + ..., with the gradient g and the Hessian H
(LeCun, Denker & Solla, Optimal brain damage, 1990). The first term is Molchanov et al., Pruning convolutional
neural networks for resource efficient inference, ICLR 2017; the second with H's diagonal replaced by the
squares of gradients (the empirical Fisher information) is Theis et al., Faster gaze prediction with dense
networks and Fisher pruning, 2018.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from cnnkern.modules import in_eval_mode, unwrapped

from .layers import column_matrices, convolutions

Criterion = Callable[[nn.Module, Sequence[str] | None], dict[str, Tensor]]
Loss = Callable[[nn.Module, Any], Tensor]


def column_norms(weight: Tensor, groups: int = 1) -> Tensor:
    """The L2 norms (G, C/G·kH·kW) of the columns of a weight (K, C/G, kH, kW); differentiable, 0 at 0."""
    return torch.linalg.vector_norm(column_matrices(weight, groups), dim=1)


def scores_by(criterion: Criterion, model: nn.Module, convs: Mapping[str, nn.Conv2d]) -> dict[str, Tensor]:
    """What `criterion` gives the convolutions `convs` of `model`, by their names, in float64.

    Raises ValueError if that is not a score for each column of each of them.
    """
    scores = criterion(model, list(convs))
    for name, conv in convs.items():
        expected, got = (conv.groups, conv.weight[0].numel()), None
        if name in scores:
            got = tuple(scores[name].shape)
        if got != expected:
            raise ValueError(f"criterion: expected scores {expected} for {name!r}, got {got}")
    return {name: scores[name].double() for name in convs}


@torch.no_grad()
def l2(model: nn.Module, layers: Sequence[str] | None = None) -> dict[str, Tensor]:
    """The norm of each column, divided by that of its layer's whole weight.

    Within a layer this ranks as the norms do. Over several layers it loses the least of Σ ‖ΔW‖²/‖W‖².
    """
    scores = {}
    for name, conv in convolutions(model, layers).items():
        norms = column_norms(conv.weight.double(), conv.groups)
        scores[name] = norms / (norms.norm() or 1.0)
    return scores


def taylor(loss: Loss, batches: Iterable[Any]) -> Criterion:
    """The criterion |Σ_k W·∂L/∂W| over each column: the change of the loss, to first order.

    Args:
        loss: (model, batch) -> scalar; called with the model in eval mode, so that nothing of it changes.
        batches: what `loss` takes, gone through anew at each call (a list, or a DataLoader); the score is
            the mean over them. In a `torch.distributed` group every process calls the criterion, with
            batches of its own, and all get the mean over all of them.
    """
    return _Saliency(loss, batches, lambda product: product.sum(dim=1).abs())


def fisher(loss: Loss, batches: Iterable[Any]) -> Criterion:
    """The criterion ½ Σ_k (W·∂L/∂W)² over each column: the change of the loss, to second order.

    Where training has converged, gradients cancel over batches and this is what remains. It is the Fisher
    information's with batches of one sample; the arguments are those of `taylor`.
    """
    return _Saliency(loss, batches, lambda product: product.square().sum(dim=1) / 2)


class _Saliency:
    """The mean over batches of a function of W·∂L/∂W (G, K/G, columns) that sums over K/G."""

    def __init__(self, loss: Loss, batches: Iterable[Any], score: Callable[[Tensor], Tensor]) -> None:
        self.loss, self.batches, self.score = loss, batches, score

    def __call__(self, model: nn.Module, layers: Sequence[str] | None = None) -> dict[str, Tensor]:
        model = unwrapped(model)
        convs = convolutions(model, layers)
        weights = [conv.weight for conv in convs.values()]
        sums = [torch.zeros_like(column_norms(weight.detach().double(), conv.groups))
                for weight, conv in zip(weights, convs.values(), strict=True)]  # fmt: skip
        count = torch.zeros((), dtype=torch.float64, device=weights[0].device)
        with in_eval_mode(model), _trained(weights), torch.enable_grad():
            for batch in self.batches:
                gradients = torch.autograd.grad(self.loss(model, batch), weights, allow_unused=True)
                for total, (name, conv), gradient in zip(sums, convs.items(), gradients, strict=True):
                    if gradient is None:
                        raise ValueError(f"layers: the loss does not depend on {name!r}")
                    product = conv.weight.detach().double() * gradient.double()
                    total += self.score(column_matrices(product, conv.groups))
                count += 1
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for total in (*sums, count):
                torch.distributed.all_reduce(total)
        if not count:
            raise ValueError("batches: expected at least one, got none")
        return {name: total / count for name, total in zip(convs, sums, strict=True)}


@contextmanager
def _trained(weights: Sequence[Tensor]) -> Iterator[None]:
    """Frozen weights have gradients too."""
    frozen = [weight for weight in weights if not weight.requires_grad]
    try:
        for weight in frozen:
            weight.requires_grad_(True)
        yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)
