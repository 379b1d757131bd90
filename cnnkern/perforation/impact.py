"""Masks that keep the positions which matter most for the loss on data.

Where an output V(k, y, x) is replaced by zero, the loss L changes by |V · ∂L/∂V|, to first order. The impact
of a position is the sum of these over its channels, averaged over data (Figurnov et al. 2016, section 3.3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cnnkern.modules import convolutions, in_eval_mode

from .masks import best

Loss = Callable[[nn.Module, Any], Tensor]


def impact(scores: Tensor, rate: float, seed: int = 0) -> Tensor:
    """A mask that keeps the positions of greatest impact.

    Those of equal impact are drawn at random.

    Args:
        scores: (oH, oW), the impact of each position, as `impact_scores` gives it.
        rate: share of the positions to drop, 0 <= rate < 1.
        seed: the same gives the same mask.

    Returns:
        bool (oH, oW) on the CPU, with `kept_count(size, rate)` positions kept.

    Raises:
        ValueError: scores that are no (oH, oW) of numbers, or a rate outside its range.
    """
    if not isinstance(scores, Tensor):
        raise TypeError(f"scores: expected a tensor (oH, oW), got {type(scores).__name__}")
    if scores.dim() != 2 or scores.numel() == 0 or bool(scores.isnan().any()):
        raise ValueError(f"scores: expected numbers (oH, oW), got {tuple(scores.shape)} or NaN among them")
    return best(scores.detach().cpu(), rate, seed)


def impact_scores(
    model: nn.Module, loss: Loss, batches: Iterable[Any], layers: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """The impact of the output positions of convolutions: the mean over batches of Σ_k |V · ∂L/∂V|.

    A loss that is a mean over the samples of a batch is as good as one that is their sum: only the order of
    positions counts. A convolution that is called several times in one pass has the sum over the calls.

    Args:
        model: called in eval mode, so that nothing of it changes.
        loss: (model, batch) -> scalar.
        batches: what `loss` takes, such as a list or a DataLoader; inputs of one size.
        layers: names of convolutions; all where it is None.

    Returns:
        {name: (oH, oW), float64}; `impact` makes masks of them.

    Raises:
        ValueError: a name that no convolution has, one that the loss does not call or depend on, no batches,
            or outputs of several sizes.
    """
    convs = convolutions(model, layers)
    scores: dict[str, Tensor] = {}
    outputs: list[tuple[str, Tensor]] = []

    def keep(name: str) -> Callable[..., Tensor]:
        def hook(_: nn.Module, __: object, output: Tensor) -> Tensor:
            if not output.requires_grad:
                output = output.detach().requires_grad_()
            outputs.append((name, output))
            return output.clone()  # what follows may write to it

        return hook

    handles = [conv.register_forward_hook(keep(name)) for name, conv in convs.items()]
    count = 0
    try:
        with in_eval_mode(model), torch.enable_grad():
            for batch in batches:
                outputs.clear()
                value = loss(model, batch)
                inputs = [output for _, output in outputs]
                gradients = torch.autograd.grad(value, inputs, allow_unused=True) if inputs else ()
                used = [(*call, g) for call, g in zip(outputs, gradients, strict=True) if g is not None]
                if unused := convs.keys() - {name for name, *_ in used}:
                    raise ValueError(f"layers: the loss does not depend on {', '.join(sorted(unused))}")
                for name, output, gradient in used:
                    _add(scores, name, _positions(output, gradient))
                count += 1
    finally:
        for handle in handles:
            handle.remove()
    if not count:
        raise ValueError("batches: expected at least one, got none")
    return {name: scores[name] / count for name in convs}


def _positions(output: Tensor, gradient: Tensor) -> Tensor:
    """The sum over channels, and the mean over images if there are several."""
    channels = (output.detach().double() * gradient.double()).abs().sum(dim=-3)
    return channels if channels.dim() == 2 else channels.mean(dim=0)


def _add(scores: dict[str, Tensor], name: str, positions: Tensor) -> None:
    if name in scores and scores[name].shape != positions.shape:
        raise ValueError(
            f"batches: expected outputs of one size, got {tuple(scores[name].shape)} and "
            f"{tuple(positions.shape)} of {name}"
        )
    scores[name] = scores[name] + positions if name in scores else positions
