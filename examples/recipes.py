"""Two ways to bring a trained network's CP layers in: one after the other, and all at once.

The first is the recipe of Lebedev et al., ICLR 2015: a layer is replaced, all layers but the new ones are
fine-tuned, and the next layer, which has changed by then, is decomposed. The second replaces all layers at
once, and trains them with everything else, each factor at its own learning rate (``examples.finetuning``).
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from cnnkern import CPConv2d
from examples.datasets import Split
from examples.finetuning import finetune
from examples.replacing import replaced

Recipe = Callable[..., nn.Module]
"""(network, layers, split, steps, **options of ``finetune``) -> fine-tuned copy, in eval mode."""


def one_after_other(
    network: nn.Module, layers: Mapping[str, CPConv2d], split: Split, steps: int, **options: Any
) -> nn.Module:
    """Replaces ``layers`` in their order, with an equal share of ``steps`` after each; new layers stay fixed.

    ``layers`` were fitted to ``network``; all but the first are fitted again, at their rank, to what the
    fine-tuning has made of their convolution.
    """
    done: list[str] = []
    for name, layer in layers.items():
        if done:
            layer = CPConv2d.from_conv(network.get_submodule(name), rank=layer.rank, verbose=False)
        done.append(name)
        network = _prepared(network, {name: layer})
        finetune(network, split, steps=steps // len(layers), fixed=done, **options)
    return network.eval()


def all_at_once(
    network: nn.Module, layers: Mapping[str, CPConv2d], split: Split, steps: int, **options: Any
) -> nn.Module:
    """Replaces all ``layers`` and trains the whole network, their factors included, for ``steps`` batches."""
    network = _prepared(network, layers)
    finetune(network, split, steps=steps, **options)
    return network.eval()


def _prepared(network: nn.Module, layers: Mapping[str, CPConv2d]) -> nn.Module:
    """A copy with the layers, in the memory format in which it trains fastest on a CPU."""
    return replaced(network, layers).to(memory_format=torch.channels_last)


RECIPES: dict[str, Recipe] = {"one after the other": one_after_other, "all at once": all_at_once}
