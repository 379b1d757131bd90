"""Trains the shared Fashion-MNIST network: ``python -m examples.train_fashion_mnist``.

SGD with Nesterov momentum and weight decay, a one-cycle learning rate (Smith & Topin 2019), label smoothing,
and images mirrored and moved by up to two pixels. Writes safetensors, with the recipe in the metadata.
The same seed, threads and torch give the same weights.
"""

import argparse
import math
import sys
from pathlib import Path

import torch
from safetensors.torch import save

from cnnkern.compression.files import written_whole
from examples.datasets import fashion_mnist
from examples.files import Unavailable
from examples.networks import CHECKPOINT, fashion_net
from examples.training import (
    BATCH_SIZE,
    PEAK_LEARNING_RATE,
    evaluate,
    steps_per_epoch,
    train_one_cycle,
)


def main(arguments: list[str] | None = None) -> int:
    """Trains, reports the accuracy after each epoch, writes the checkpoint. Returns the exit status."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    try:
        training, test = fashion_mnist(options.data)
    except (Unavailable, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    network = fashion_net().to(memory_format=torch.channels_last)
    steps = options.epochs * steps_per_epoch(training, options.batch_size)
    losses = train_one_cycle(
        network,
        training,
        steps=steps,
        learning_rate=PEAK_LEARNING_RATE,
        batch_size=options.batch_size,
        seed=options.seed,
        description="Fashion-MNIST",
        after_epoch=lambda _: f"test accuracy {evaluate(network, test):.2%}",
    )
    if not math.isfinite(losses[-1]):
        print(f"the loss was {losses[-1]} at step {len(losses)}; nothing written", file=sys.stderr)
        return 1
    accuracy = evaluate(network, test)
    recipe = {
        "data": "Fashion-MNIST",
        "test_accuracy": f"{accuracy:.4f}",
        "epochs": str(options.epochs),
        "batch_size": str(options.batch_size),
        "seed": str(options.seed),
        "threads": str(options.threads),
        "torch": torch.__version__,
    }
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    with written_whole(options.output) as path:
        path.write_bytes(save(state, metadata=recipe))
    print(f"test accuracy {accuracy:.2%}, written to {options.output}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.train_fashion_mnist", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="folder with the four IDX files of Fashion-MNIST"
    )
    parser.add_argument(
        "--output", type=Path, default=CHECKPOINT, metavar="FILE", help="default: %(default)s"
    )
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s")
    return parser


if __name__ == "__main__":
    sys.exit(main())
