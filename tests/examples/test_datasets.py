"""Reading Fashion-MNIST: what is damaged or missing is said, never guessed at."""

import gzip
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from examples import datasets, debian
from examples.datasets import MEAN, STD, Split, fashion_mnist, load_split, parse_idx, read_idx
from examples.files import Unavailable


def idx(array: np.ndarray) -> bytes:
    shape = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + shape + array.tobytes()


IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


def test_idx_is_read_back():
    assert np.array_equal(parse_idx(idx(IMAGES), "x"), IMAGES)
    empty = np.zeros((0, 28, 28), dtype=np.uint8)
    assert parse_idx(idx(empty), "x").shape == (0, 28, 28)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "too few"),
        (b"\0\0\x08", "too few"),
        (b"\x1f\x8b\x08\0" + bytes(20), "starts with 1f8b0800"),
        (b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0", "starts with 00000d01"),
        (bytes([0, 0, 8, 0]), "rank 0"),
        (idx(IMAGES)[:10], "rank 3 does not fit"),
        (idx(IMAGES)[:-1], "needs 24 bytes of data, the file has 23"),
        (idx(IMAGES) + b"\0", "needs 24 bytes of data, the file has 25"),
        (bytes([0, 0, 8, 4]) + b"\xff" * 16, "needs"),
    ],
)
def test_damaged_idx(content: bytes, complaint: str):
    with pytest.raises(ValueError, match=complaint) as caught:
        parse_idx(content, "train-images")
    assert str(caught.value).startswith("train-images: ")


def test_idx_may_be_compressed(tmp_path: Path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx(IMAGES)))
    assert np.array_equal(read_idx(tmp_path / "a"), IMAGES)
    (tmp_path / "a").write_bytes(idx(IMAGES[:1]))
    assert np.array_equal(read_idx(tmp_path / "a"), IMAGES[:1])


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-9], lambda content: b"no" + content, lambda _: b""]
)
def test_damaged_compression(tmp_path: Path, damage):
    (tmp_path / "a.gz").write_bytes(damage(gzip.compress(idx(IMAGES))))
    with pytest.raises(ValueError, match=r"a\.gz: "):
        read_idx(tmp_path / "a")


def test_folder_of_ones_own(small_data: Path):
    training, test = fashion_mnist(small_data)
    assert training.images.shape == (96, 1, 28, 28)
    assert training.images.dtype == torch.float32
    assert test.labels.shape == (64,)
    assert test.labels.dtype == torch.int64
    assert training.images.max().item() == pytest.approx((1 - MEAN) / STD)


def test_folder_without_all_files(small_data: Path):
    (small_data / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(Unavailable, match="t10k-labels-idx1-ubyte"):
        fashion_mnist(small_data)


@pytest.mark.parametrize(
    ("name", "array", "complaint"),
    [
        (
            "train-images-idx3-ubyte",
            np.zeros((96, 28, 27), np.uint8),
            r"\(96, 28, 27\), expected \(N, 28, 28\)",
        ),
        ("train-images-idx3-ubyte", np.zeros((96, 784), np.uint8), r"expected \(N, 28, 28\)"),
        ("train-labels-idx1-ubyte", np.zeros(95, np.uint8), r"labels of shape \(95,\)"),
        ("train-labels-idx1-ubyte", np.full(96, 10, np.uint8), "label 10 is not below 10"),
    ],
)
def test_files_that_do_not_fit(small_data: Path, name: str, array: np.ndarray, complaint: str):
    (small_data / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
    with pytest.raises(ValueError, match=complaint):
        load_split(small_data, "train")


@pytest.fixture
def nothing_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No installed package, an empty cache; returns the cache's folder."""
    monkeypatch.setattr(datasets, "INSTALLED", tmp_path / "usr" / "share" / "datasets" / "fashion-mnist")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cnnkern"


def test_no_apt_says_what_to_do(nothing_at_hand: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(debian.shutil, "which", lambda tool: None)
    with pytest.raises(
        Unavailable, match=r"(?s)apt-get and dpkg-deb not found.*--data DIR.*train-images-idx3-ubyte"
    ):
        fashion_mnist()
    assert not nothing_at_hand.exists()


def test_failing_download_leaves_nothing(nothing_at_hand: Path, monkeypatch: pytest.MonkeyPatch):
    commands = []

    def fail(command, **_):
        commands.append(command)
        return subprocess.CompletedProcess(command, 100, "", "W: old lists\nE: Unable to fetch\n")

    monkeypatch.setattr(debian.shutil, "which", lambda tool: f"/usr/bin/{tool}")
    monkeypatch.setattr(debian.subprocess, "run", fail)
    with pytest.raises(Unavailable, match="apt-get failed: E: Unable to fetch"):
        fashion_mnist()
    # A second try with package lists of its own, for which it needs no root.
    assert [command[-1] for command in commands] == ["dataset-fashion-mnist", "update"]
    assert list(nothing_at_hand.iterdir()) == []


def test_package_is_unpacked_into_the_cache(
    nothing_at_hand: Path, small_data: Path, monkeypatch: pytest.MonkeyPatch
):
    def pretend(command, cwd, **_):
        if command[0] == "apt-get":
            (cwd / "dataset-fashion-mnist_1_all.deb").touch()
        else:
            target = Path(command[-1]) / datasets.INSTALLED.relative_to("/")
            target.parent.mkdir(parents=True)
            small_data.rename(target)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(debian.shutil, "which", lambda tool: f"/usr/bin/{tool}")
    monkeypatch.setattr(debian.subprocess, "run", pretend)
    (nothing_at_hand / "fashion-mnist").mkdir(parents=True)  # an incomplete one is replaced
    assert len(fashion_mnist()[1].labels) == 64
    assert [path.name for path in nothing_at_hand.iterdir()] == ["fashion-mnist"]
    monkeypatch.setattr(debian.subprocess, "run", None)
    assert len(fashion_mnist()[1].labels) == 64


def test_real_test_split(fashion_test: Split):
    assert fashion_test.images.shape == (10_000, 1, 28, 28)
    assert fashion_test.labels.bincount().tolist() == [1000] * 10
    assert abs(fashion_test.images.mean().item()) < 0.01
