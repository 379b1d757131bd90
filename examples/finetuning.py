"""Fine-tuning of networks with CP layers at the learning rate that the dense network was trained with.

A step of length η on one factor of a CP layer moves the weight W' that the layer stands for by η·A·Aᵀ·G,
where G is the gradient of W' and A the linear map from that factor to W'. A dense layer would move by η·G;
the factor's step is longer by up to λ, the largest eigenvalue of AᵀA, which is the elementwise product of the
other factors' Gram matrices. Degenerate fits have a λ of thousands, and even good ones of 2 to 10: that is
why CP layers explode where the dense ones trained well (Lebedev et al. 2015 met it). Dividing each factor's
rate by its λ, and by four since four factors move at once, makes no step longer than the dense one's. It does
not depend on how norms are spread over the factors.
"""

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cnnkern import CPConv2d
from examples.datasets import Split
from examples.training import BATCH_SIZE, LABEL_SMOOTHING, PEAK_LEARNING_RATE, one_cycle, train

# In the order of alternating training.
FACTORS = ("factor_k", "factor_c", "factor_h", "factor_w")


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


def finetune(
    network: nn.Module,
    split: Split,
    *,
    steps: int,
    learning_rate: float = PEAK_LEARNING_RATE,
    fixed: Collection[str] = (),
    scaled: bool = True,
    alternate: int | None = None,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    objective: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
    description: str | None = "fine-tuning",
    after_step: Callable[[], None] | None = None,
) -> list[float]:
    """Trains ``network`` in place, as the dense one was trained, for ``steps`` batches; the loss of each.

    ``fixed`` names submodules whose parameters stay as they are. ``scaled`` gives each CP factor the learning
    rate that ``factor_rates`` says, else that of everything else. With ``alternate``, each CP layer trains
    one factor at a time, the next one after that many steps, beside the rest of the network.
    ``objective`` is `train`'s, such as a `cnnkern.distillation.Distillation` from the dense network.
    ``after_step`` is called once per step.
    """
    modules = dict(network.named_modules())
    layers = [
        module for name, module in modules.items() if isinstance(module, CPConv2d) and name not in fixed
    ]
    held = {parameter for name in fixed for parameter in network.get_submodule(name).parameters()}
    factors = {getattr(layer, name) for layer in layers for name in FACTORS}
    rest = [parameter for parameter in network.parameters() if parameter not in factors | held]
    groups = [{"params": rest, "max_lr": learning_rate}]
    together = 1 if alternate else len(FACTORS)
    for layer in layers:
        for name, rate in factor_rates(layer).items():
            share = rate / together if scaled else 1.0
            groups.append({"params": [getattr(layer, name)], "max_lr": learning_rate * share})
    optimizer, schedule = one_cycle(groups, steps)

    def take_turns(step: int) -> None:
        turn = FACTORS[step // alternate % len(FACTORS)]
        for layer in layers:
            for name in FACTORS:
                getattr(layer, name).requires_grad_(name == turn)

    with _gradients_restored(held | factors):
        for parameter in held:
            parameter.requires_grad_(False)
        return train(
            network,
            split,
            optimizer,
            steps=steps,
            batch_size=batch_size,
            seed=seed,
            schedule=schedule,
            label_smoothing=LABEL_SMOOTHING,
            objective=objective,
            description=description,
            before_step=take_turns if alternate else None,
            after_step=after_step,
        )


@contextmanager
def _gradients_restored(parameters: Collection[nn.Parameter]) -> Iterator[None]:
    """Whether a gradient is asked for is afterwards what it was before."""
    before = [(parameter, parameter.requires_grad) for parameter in parameters]
    try:
        yield
    finally:
        for parameter, wanted in before:
            parameter.requires_grad_(wanted)
