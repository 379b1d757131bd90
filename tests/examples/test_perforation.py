"""The perforation experiment runs from data to table, JSON and picture, on small data."""

import json
from pathlib import Path

import pytest

from examples import perforation

pytest.importorskip("matplotlib")


def test_perforation_script(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perforation, "SECONDS", 0.0)
    monkeypatch.setattr(perforation, "FASHION_BATCHES", (2,))
    monkeypatch.setattr(perforation, "BATCH_SIZE", 32)
    monkeypatch.setattr(perforation, "SEARCH_CALLS", 1)
    output = tmp_path / "out"
    options = [f"--data={small_data}", f"--output={output}", "--steps=3", "--threads=1"]
    assert perforation.main([*options, "--rates", "0.25", "0.75"]) == 0
    document = json.loads((output / "perforation.json").read_text())
    assert document["greedy"]["rates"].keys() == {"conv2", "conv3"}
    outcomes = document["outcomes"]
    patterns = ("uniform", "grid", "pooling structure", "impact")
    assert [(one["pattern"], one["rate"]) for one in outcomes] == [
        (pattern, rate) for pattern in patterns for rate in (0.25, 0.75)
    ]
    for outcome in outcomes:
        assert list(outcome["times"]["2"]) == ["conv2", "conv3", "whole network"]
        kept = sum(map(sum, outcome["masks"]["conv2"]))
        if outcome["pattern"] != "grid":  # which keeps whole rows and columns
            assert kept == round(14 * 14 * (1 - outcome["rate"]))
    assert (output / "perforation.png").read_bytes().startswith(b"\x89PNG")
