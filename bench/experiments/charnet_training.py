"""CharNet for `bench.experiments.charnet`: trained once, then with CP layers in the place of convolutions."""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import nn

from cnnkern import CPConv2d
from cnnkern.compression.files import written_whole
from examples.characters import Characters, distort
from examples.datasets import Split
from examples.files import cache_directory
from examples.networks import charnet
from examples.recipes import all_at_once, one_after_other
from examples.replacing import replaced
from examples.training import LABEL_SMOOTHING, evaluate, one_cycle, steps_per_epoch, train

LAYERS = ("conv2", "conv3")
BATCH_SIZE = 64
LEARNING_RATE = 0.05
LARGEST_GRADIENT = 2.0  # norm over all parameters: without batch norms the rate above explodes at times
FINE_TUNING_RATE = 0.003


class Diverged(RuntimeError):
    """The loss of a training is not finite."""


def trained(data: Characters, *, epochs: int, seed: int, shrink: int) -> nn.Sequential:
    """CharNet after `epochs` of the training characters, in eval mode; from the user's cache where the same
    training was done before.

    Raises:
        Diverged: the training failed; nothing is cached.
    """
    checkpoint = _checkpoint(data.training, epochs, seed, shrink)
    torch.manual_seed(seed)
    network = charnet(shrink)
    if checkpoint.exists():
        network.load_state_dict(load_file(checkpoint))
        return network.eval()
    network = network.to(memory_format=torch.channels_last)
    steps = epochs * steps_per_epoch(data.training, BATCH_SIZE)
    optimizer, schedule = one_cycle(
        [{"params": list(network.parameters()), "max_lr": LEARNING_RATE}], max(3, steps)
    )

    def clip(*_: object) -> None:
        nn.utils.clip_grad_norm_(network.parameters(), LARGEST_GRADIENT)

    optimizer.register_step_pre_hook(clip)
    losses = train(
        network,
        data.training,
        optimizer,
        steps=steps,
        batch_size=BATCH_SIZE,
        seed=seed,
        schedule=schedule,
        label_smoothing=LABEL_SMOOTHING,
        augmentation=distort,
        description="CharNet",
        after_epoch=lambda _: f"test accuracy {evaluate(network, data.test):.2%}",
    )
    if not math.isfinite(losses[-1]):
        raise Diverged(f"CharNet: the loss was {losses[-1]} at step {len(losses)}")
    network = network.to(memory_format=torch.contiguous_format).eval()
    with written_whole(checkpoint) as path:
        path.write_bytes(save({name: value.contiguous() for name, value in network.state_dict().items()}))
    return network


def together(
    network: nn.Module, layers: Mapping[str, CPConv2d], training: Split, steps: int, *, seed: int
) -> nn.Module:
    """The network with all `layers`, if any, which train with everything else, each factor at a rate of its
    own."""
    description = " and ".join(f"{name} at R={layer.rank}" for name, layer in layers.items()) or "original"
    return _contiguous(all_at_once(network, layers, training, steps, **_options(seed, description)))


def as_published(
    network: nn.Module, layers: Mapping[str, CPConv2d], training: Split, steps: int, *, seed: int
) -> nn.Module:
    """The recipe of Lebedev et al. 2015: the second layer is replaced, all layers but the new ones are
    trained, the third one is decomposed as it then is, and that is all."""
    second, third = LAYERS
    options = _options(seed, f"as published, R={layers[second].rank}")
    network = one_after_other(network, {second: layers[second]}, training, steps, **options)
    fitted = CPConv2d.from_conv(network.get_submodule(third), rank=layers[third].rank, verbose=False)
    return _contiguous(replaced(network, {third: fitted}).eval())


def _options(seed: int, description: str) -> dict[str, object]:
    return {
        "learning_rate": FINE_TUNING_RATE,
        "batch_size": BATCH_SIZE,
        "seed": seed,
        "augmentation": distort,
        "description": description,
    }


def _contiguous(network: nn.Module) -> nn.Module:
    return network.to(memory_format=torch.contiguous_format)


def _checkpoint(training: Split, epochs: int, seed: int, shrink: int) -> Path:
    """Where the network of this training is kept: another name for whatever it depends on."""
    recipe = epochs, seed, shrink, BATCH_SIZE, LEARNING_RATE, LARGEST_GRADIENT, LABEL_SMOOTHING
    digest = hashlib.sha256(repr(recipe).encode())
    for tensor in training:
        digest.update(tensor.numpy().tobytes())
    return cache_directory() / "charnet" / f"{digest.hexdigest()[:16]}.safetensors"
