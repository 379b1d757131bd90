"""The pruning experiment runs from data to table, JSON and picture, on small data."""

import json
from pathlib import Path

import pytest

from examples import pruning

pytest.importorskip("matplotlib")


def test_pruning_script(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "SECONDS", 0.0)
    monkeypatch.setattr(pruning, "FASHION_BATCHES", (2,))
    monkeypatch.setattr(pruning, "ROUNDS", 2)
    output = tmp_path / "out"
    options = [f"--data={small_data}", f"--output={output}", "--steps=6", "--dense-steps=3", "--threads=1"]
    assert pruning.main([*options, "--densities", "0.4", "0.1"]) == 0
    results = json.loads((output / "pruning.json").read_text())["networks"]
    sizes = {"fashion_mnist": {"conv2": 32 * 25, "conv3": 64 * 9}, "lenet": {"conv1": 25, "conv2": 20 * 25}}
    assert results.keys() == sizes.keys()
    for network, columns in sizes.items():
        outcomes = results[network]["outcomes"]
        assert [outcome["density"] for outcome in outcomes] == [0.4, 0.1]
        for outcome in outcomes:
            for name, total in columns.items():
                assert len(outcome["columns"][name]) == round(outcome["density"] * total)
            assert list(outcome["times"]["2"]) == [*columns, "whole network"]
        assert (output / f"pruning-{network}.png").read_bytes().startswith(b"\x89PNG")
