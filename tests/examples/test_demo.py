"""The demo runs from data to table, JSON and picture, on small data and with little time to measure."""

import json
from pathlib import Path

import pytest
import torch

from examples import demo, experiment

pytest.importorskip("matplotlib")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "LAYER_SECONDS", 0.0)
    monkeypatch.setattr(demo, "NETWORK_SECONDS", 0.0)
    monkeypatch.setattr(demo, "FINETUNING_STEPS", 6)
    monkeypatch.setattr(demo, "SQUEEZENET_BATCHES", (1, 2))
    monkeypatch.setattr(demo, "IMAGE_SIZE", 67)
    monkeypatch.setattr(experiment, "SQUEEZENET_LAYERS", ("fire2.expand3x3",))
    monkeypatch.setattr(experiment, "SQUEEZENET_SAVINGS", (8, 4))


@pytest.mark.usefixtures("short")
def test_demo(small_data: Path, small_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    threads = torch.get_num_threads()
    output = tmp_path / "out"
    options = [f"--data={small_data}", f"--weights={small_weights}", f"--output={output}", "--threads=1"]
    assert demo.main([*options, "--ranks", "2", "5"]) == 0
    assert torch.get_num_threads() == threads

    results = json.loads((output / "results.json").read_text())
    assert results["environment"]["threads"] == 1
    rows = results["studies"]["fashion_mnist"]["rows"]
    assert [(row["what"], row["label"]) for row in rows] == [
        (what, rank) for what in ("conv2", "conv3", "whole network") for rank in ("2", "5")
    ]
    second = rows[1]
    assert second["shape"] == "32→64, 5×5 on 14×14"
    assert (second["dense_parameters"], second["parameters"]) == (64 * 32 * 25, 5 * (32 + 5 + 5 + 64))
    assert 0 < second["error"] < rows[0]["error"] < 1
    for row in rows:
        assert 0 <= row["accuracy"] <= 1
        recipes = {"one after the other", "all at once"} if row["what"] == "whole network" else set()
        assert row["finetuned"].keys() == recipes
        assert all(0 <= accuracy <= 1 for accuracy in row["finetuned"].values())
        assert row["times"].keys() == {"1", "64"}
        for times in row["times"].values():
            assert times.keys() == {"dense", "four", "cnnkern"}
            assert all(time["milliseconds"] > 0 for time in times.values())
    squeezed = results["studies"]["squeezenet"]["rows"]
    assert [(row["what"], row["rank"]) for row in squeezed] == [
        ("fire2.expand3x3", 12), ("fire2.expand3x3", 28), ("whole network", None), ("whole network", None),
    ]  # fmt: skip

    assert (output / "results.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    for text in (
        "Fashion-MNIST, batch 64",
        "SqueezeNet 1.1, batch 2",
        "conv3",
        "whole network",
        "all at once",
    ):
        assert text in printed


@pytest.mark.usefixtures("short")
def test_demo_goes_on_without_squeezenet(small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    output = tmp_path / "out"
    options = [
        f"--data={small_data}",
        f"--weights={tmp_path / 'missing.pkl'}",
        f"--output={output}",
        "--threads=1",
    ]
    assert demo.main([*options, "--ranks", "2"]) == 0
    assert "SqueezeNet was left out" in capsys.readouterr().err
    results = json.loads((output / "results.json").read_text())
    assert results["studies"].keys() == {"fashion_mnist"}
    assert "missing.pkl" in results["notes"][0]
    assert (output / "results.png").exists()


def test_demo_without_data(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert demo.main([f"--data={tmp_path}", f"--output={tmp_path / 'out'}"]) == 1
    assert "t10k-images-idx3-ubyte" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [["--ranks", "0"], ["--threads", "0"], ["--ranks", "x"]])
def test_wrong_options(options: list[str], capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit):
        demo.main(options)
    assert "invalid" in capsys.readouterr().err
