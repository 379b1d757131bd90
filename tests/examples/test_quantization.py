"""The int8 experiment runs from data to table and JSON, on small data."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from examples import imagenet, quantization

Image = pytest.importorskip("PIL.Image")


def pictures(count: int) -> list:
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (64, 48, 3), np.uint8)) for _ in range(count)]


def test_crops_are_parts_of_the_pictures() -> None:
    flat = [Image.new("RGB", (60, 40), (7 * index, 0, 255)) for index in range(3)]
    x = imagenet.crops(flat, 5, np.random.default_rng(0))
    assert x.shape == (5, 3, 227, 227)
    expected = torch.stack([imagenet.preprocess(np.asarray(flat[index % 3]))[:, 0, 0] for index in range(5)])
    assert torch.equal(x[:, :, 100, 100], expected)
    one, other = (imagenet.crops(pictures(2), 3, np.random.default_rng(1)) for _ in range(2))
    assert torch.equal(one, other)


def test_quantization_script(
    small_data: Path, small_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantization, "photos", lambda: (pictures(4), [0, 1, 2, 3]))
    for name, value in (
        ("SECONDS", 0.0),
        ("FASHION_BATCHES", (2,)),
        ("SQUEEZENET_BATCHES", (1,)),
        ("SQUEEZENET_BATCH", 2),
        ("CALIBRATION_IMAGES", 8),
        ("CALIBRATION_CROPS", 2),
        ("TEST_CROPS", 2),
    ):
        monkeypatch.setattr(quantization, name, value)
    output = tmp_path / "out"
    options = [f"--data={small_data}", f"--weights={small_weights}", f"--output={output}", "--images=16"]
    steps = ["--training-steps=3", "--steps=3", "--squeezenet-steps=3"]
    assert quantization.main([*options, *steps, "--threads=1"]) == 0
    outcomes = json.loads((output / "quantization.json").read_text())["outcomes"]
    assert [outcome["measure"] for outcome in outcomes] == ["accuracy", "accuracy", "agreement"]
    assert outcomes[-1]["quality"]["float32"] == 1
    for outcome in outcomes:
        assert outcome["quality"].keys() == {"float32", "PTQ", "QAT"}
        assert outcome["bytes"]["int8"] <= 0.28 * outcome["bytes"]["float32"]
        assert next(iter(outcome["times"].values())).keys() == {"float32", "int8"}
        assert outcome["reports"]["QAT"]["fallback"] is None
