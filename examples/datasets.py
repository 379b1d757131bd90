"""Fashion-MNIST (Xiao, Rasul, Vollgraf 2017): 60,000 training and 10,000 test images, 28x28 grey, 10 classes.

The data comes from the Debian package ``dataset-fashion-mnist`` (MIT licence, 31 MB): the installed one if it
is there, else a copy unpacked into the user's cache, which needs no root. ``data=`` names one's own copy.
"""

import gzip
import math
import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from examples.debian import package_folder
from examples.files import Unavailable, cache_directory

DEBIAN_PACKAGE = "dataset-fashion-mnist"
INSTALLED = Path("/usr/share/datasets/fashion-mnist")
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
CLASSES = (
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
# Of the 60,000 training images, on the scale 0..1.
MEAN, STD = 0.2860, 0.3530

_IDX_UNSIGNED_BYTE = 0x08


class Split(NamedTuple):
    """Images, float32 (N, 1, H, W), and their labels, int64 (N).

    Those of Fashion-MNIST are 28x28 and normalized by MEAN and STD.
    """

    images: Tensor
    labels: Tensor


def parse_idx(content: bytes, name: str) -> np.ndarray:
    """The uint8 array of an IDX file (big-endian header: 0, 0, type, rank, then one u32 per dimension).

    Raises ValueError, with ``name`` in the message, for anything but a complete IDX file of unsigned bytes
    with no byte too many.
    """
    if len(content) < 4:
        raise ValueError(f"{name}: {len(content)} bytes are too few for an IDX header")
    zero, kind, rank = struct.unpack(">HBB", content[:4])
    if zero != 0 or kind != _IDX_UNSIGNED_BYTE:
        raise ValueError(
            f"{name}: starts with {content[:4].hex()}, not with an IDX header of unsigned bytes (000008..)"
        )
    header = 4 + 4 * rank
    if rank == 0 or len(content) < header:
        raise ValueError(f"{name}: an IDX header of rank {rank} does not fit in {len(content)} bytes")
    shape = struct.unpack(f">{rank}I", content[4:header])
    expected = math.prod(shape)
    if len(content) - header != expected:
        raise ValueError(
            f"{name}: shape {shape} needs {expected} bytes of data, the file has {len(content) - header}"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array of the IDX file ``path``, or of ``path`` + ``.gz``. ValueError if it is damaged."""
    compressed = path.with_name(path.name + ".gz")
    if path.exists():
        return parse_idx(path.read_bytes(), str(path))
    if not compressed.exists():
        raise FileNotFoundError(f"neither {path} nor {compressed.name} beside it exists")
    try:
        content = gzip.decompress(compressed.read_bytes())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{compressed}: not a complete gzip file ({error})") from error
    return parse_idx(content, str(compressed))


def load_split(folder: Path, split: str) -> Split:
    """One split ("train" or "test") of the IDX files in ``folder``, checked for shapes, range and counts."""
    images, labels = (read_idx(folder / name) for name in FILES[split])
    if images.ndim != 3 or images.shape[1:] != (28, 28):
        raise ValueError(f"{folder / FILES[split][0]}: shape {images.shape}, expected (N, 28, 28)")
    if labels.shape != images.shape[:1]:
        raise ValueError(
            f"{folder}: {split} has images of shape {images.shape} and labels of shape {labels.shape}"
        )
    if labels.size and labels.max() >= len(CLASSES):
        raise ValueError(f"{folder / FILES[split][1]}: label {labels.max()} is not below {len(CLASSES)}")
    pixels = torch.from_numpy(images.astype(np.float32)).unsqueeze(1)
    return Split(pixels.div_(255).sub_(MEAN).div_(STD), torch.from_numpy(labels.astype(np.int64)))


def fashion_mnist(data: str | os.PathLike | None = None) -> tuple[Split, Split]:
    """(training, test) split of Fashion-MNIST, from the folder ``data`` or from the Debian package.

    Raises Unavailable if it cannot be had, ValueError if a file is damaged.
    """
    folder = Path(data) if data is not None else _debian_copy()
    missing = _missing(folder)
    if missing:
        raise Unavailable(f"{folder} lacks {', '.join(missing)} (each may also end in .gz)")
    return load_split(folder, "train"), load_split(folder, "test")


def _missing(folder: Path) -> list[str]:
    names = [name for pair in FILES.values() for name in pair]
    return [name for name in names if not ((folder / name).exists() or (folder / f"{name}.gz").exists())]


def _debian_copy() -> Path:
    """The installed package's folder, or the cached one, which is filled first if need be."""
    cached = cache_directory() / "fashion-mnist"
    try:
        return package_folder(DEBIAN_PACKAGE, INSTALLED, cached, _missing, "Fashion-MNIST, 31 MB")
    except Unavailable as reason:
        raise Unavailable(
            f"Fashion-MNIST is not at hand: {reason}\n"
            f"Either install the Debian package {DEBIAN_PACKAGE}, "
            "or give a folder of your own with --data DIR:\n"
            + "\n".join(f"  {name}.gz" for pair in FILES.values() for name in pair)
            + "\nas published at https://github.com/zalandoresearch/fashion-mnist"
        ) from None
