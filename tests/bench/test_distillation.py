"""The distillation experiment runs from images to table, JSON and picture, and trains its teacher once."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from bench.experiments import distillation, teacher_student
from examples.datasets import Split

SETTINGS = ["--temperatures", "1", "4", "--label-weights", "0.5", "--seeds", "0", "3"]


@pytest.fixture
def images() -> Split:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 10, (96,), generator=generator)
    pixels = torch.randn(96, 1, 28, 28, generator=generator)
    pixels[torch.arange(96), 0, 2 * labels + 4] += 4
    return Split(pixels, labels)


def test_one_command_writes_both_files_and_keeps_the_teacher(
    images: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(distillation, "fashion_mnist", lambda data: (images, images))
    monkeypatch.setattr(distillation, "BATCHES", (2,))
    monkeypatch.setattr(distillation, "BATCH_SIZE", 32)
    output = tmp_path / "out"
    arguments = [*SETTINGS, "--teacher-epochs", "2", "--epochs", "1", "--seconds", "0", "--threads", "1"]
    assert distillation.main([*arguments, "--output", str(output)]) == 0
    numbers, picture = sorted(output.iterdir())
    assert picture.read_bytes().startswith(b"\x89PNG")
    document = json.loads(numbers.read_text(encoding="utf-8"))
    assert document["environment"]["cpu"]
    settings = [(each["temperature"], each["label_weight"], each["seed"]) for each in document["points"]]
    assert settings == [(None, None, 0), (None, None, 3), (1, 0.5, 0), (4, 0.5, 0)]
    sizes = {name: each["megabytes"] for name, each in document["networks"].items()}
    assert sizes["student"] < sizes["teacher"] / 5
    assert "labels alone" in capsys.readouterr().out

    monkeypatch.setattr(distillation, "train_one_cycle", None)  # which would fail if it were called
    assert distillation.main([*arguments, "--output", str(output)]) == 0
    again = json.loads(numbers.read_text(encoding="utf-8"))
    assert again["points"] == document["points"]


def test_a_teacher_whose_training_diverges_is_not_kept(
    images: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(distillation, "train_one_cycle", lambda *_, **__: [float("nan")])
    with pytest.raises(RuntimeError, match="nan at step 1"):
        distillation.trained_teacher(images, 1)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_without_data_it_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert distillation.main([f"--data={tmp_path}"]) == 1
    assert "train-images-idx3-ubyte" in capsys.readouterr().err


@pytest.mark.parametrize("temperature", [1.0, 5.0])
def test_a_teacher_that_only_repeats_the_labels_changes_nothing(temperature: float) -> None:
    """At T = 1; at any T, λ large against 1/T² leaves the loss for the labels."""
    scores, labels = torch.randn(7, 10, dtype=torch.float64), torch.arange(7)
    certain = 1e4 * torch.eye(10, dtype=torch.float64)[:7]
    weight = 0.5 if temperature == 1 else 1e12
    loss = distillation.objective(
        scores, (labels, certain), scores, temperature=temperature, label_weight=weight
    )
    torch.testing.assert_close(loss, cross_entropy(scores, labels))


def test_the_error_of_a_gain_counts_only_what_differs() -> None:
    right, rival = torch.ones(100, dtype=torch.bool), torch.ones(100, dtype=torch.bool)
    assert distillation.gain(right, rival) == (0, 0)
    rival[:4] = False
    gain, error = distillation.gain(right, rival)
    assert gain == pytest.approx(0.04)
    assert error == pytest.approx((0.04 * 0.96 / 100) ** 0.5)


@pytest.mark.parametrize("network", [teacher_student.teacher, teacher_student.student])
def test_a_network_gives_ten_scores_an_image(network: Callable[[], nn.Module]) -> None:
    with torch.no_grad():
        assert network().eval()(torch.randn(3, 1, 28, 28)).shape == (3, 10)
