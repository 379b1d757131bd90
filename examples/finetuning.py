"""Fine-tuning of networks with CP layers at the learning rate that the dense network was trained with.

What makes CP layers explode there, and how their factors' rates are divided, is in the head of
``cnnkern/compression/finetuning.py``.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from cnnkern import CPConv2d
from cnnkern.compression.finetuning import FACTORS, factor_rates
from examples.datasets import Split
from examples.training import BATCH_SIZE, PEAK_LEARNING_RATE, Augmentation, augment, train_one_cycle


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
    augmentation: Augmentation = augment,
    objective: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
    description: str | None = "fine-tuning",
    after_step: Callable[[], None] | None = None,
) -> list[float]:
    """Trains ``network`` in place, as the dense one was trained, for ``steps`` batches; the loss of each.

    ``fixed`` names submodules whose parameters stay as they are. ``scaled`` gives each CP factor the learning
    rate that ``factor_rates`` says, else that of everything else. With ``alternate``, each CP layer trains
    one factor at a time, the next one after that many steps, beside the rest of the network.
    ``augmentation`` and ``objective`` are `train`'s, the latter such as a
    `cnnkern.distillation.Distillation` from the dense network.
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

    def take_turns(step: int) -> None:
        turn = FACTORS[step // alternate % len(FACTORS)]
        for layer in layers:
            for name in FACTORS:
                getattr(layer, name).requires_grad_(name == turn)

    with _gradients_restored(held | factors):
        for parameter in held:
            parameter.requires_grad_(False)
        return train_one_cycle(
            network,
            split,
            steps=steps,
            groups=groups,
            batch_size=batch_size,
            seed=seed,
            augmentation=augmentation,
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
