"""The CharNet experiment: one command writes both files, trains once, and follows the published recipe."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib
import pytest
import torch
from torch import nn

from bench.experiments import charnet, charnet_training
from bench.experiments.charnet_training import LAYERS, as_published
from cnnkern import CPConv2d
from examples.datasets import Split
from examples.networks import charnet as network_of

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
SMALL = ["--data", str(FONTS), "--shrink", "16", "--ranks", "64", "2", "--epochs", "1", "--steps", "3"]
SMALL += ["--batch", "2", "--seconds", "0.01", "--threads", "1"]


def test_one_command_writes_both_files_and_trains_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # Threads start sooner than processes.
    monkeypatch.setattr(charnet, "fitting_pool", ThreadPoolExecutor)
    assert charnet.main([*SMALL, "--output", str(tmp_path / "first")]) == 0
    picture, numbers = sorted((tmp_path / "first").iterdir(), key=lambda path: path.suffix, reverse=True)
    assert picture.read_bytes().startswith(b"\x89PNG")
    document = json.loads(numbers.read_text(encoding="utf-8"))
    assert [(p["layer"], p["rank"]) for p in document["points"]] == [(n, r) for n in LAYERS for r in (2, 64)]
    assert all(
        0 < point["error"] < 1 and point["cnnkern"]["milliseconds"] > 0 for point in document["points"]
    )
    assert [(each["replaced"], each["rank"]) for each in document["networks"]] == [
        *((what, rank) for what in (*LAYERS, "both") for rank in (2, 64)),
        (charnet.PUBLISHED, 64),
    ]
    assert "in the paper" in capsys.readouterr().out

    monkeypatch.setattr(charnet_training, "train", None)
    data = charnet.characters(FONTS)
    again = charnet_training.trained(data, epochs=1, seed=0, shrink=16)
    assert charnet.evaluate(again, data.test) == document["accuracy"]


def test_the_published_recipe_trains_all_but_the_new_layers() -> None:
    torch.manual_seed(0)
    dense = network_of(shrink=16)
    split = Split(torch.rand(8, 1, 24, 24), torch.arange(8))
    layers = {name: CPConv2d.from_conv(dense.get_submodule(name), rank=2, verbose=False) for name in LAYERS}
    tuned = as_published(dense, layers, split, 3, seed=0)
    assert not tuned.training
    assert torch.equal(tuned.conv2.factor_c, layers["conv2"].factor_c)
    assert not torch.equal(tuned.conv3.factor_c, layers["conv3"].factor_c)  # of what it has become
    assert [type(tuned.get_submodule(name)) for name in ("conv1", "conv4")] == [nn.Conv2d] * 2
    assert not torch.equal(tuned.conv1.weight, dense.conv1.weight)
