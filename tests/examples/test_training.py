"""The training loop and the script that keeps the checkpoint."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from cnnkern.distillation import Distillation
from examples import train_fashion_mnist
from examples.datasets import MEAN, STD, Split, fashion_mnist
from examples.training import augment, evaluate, train

BLACK = -MEAN / STD


def test_augment_moves_and_mirrors():
    image = torch.full((1, 1, 8, 8), BLACK)
    image[0, 0, 3, 4] = 1.0
    moved = augment(image.expand(500, 1, 8, 8), torch.Generator().manual_seed(0))
    assert moved.shape == (500, 1, 8, 8)
    places = {tuple(place) for place in (moved[:, 0] == 1).nonzero()[:, 1:].tolist()}
    # Up to SHIFT pixels around (3, 4) and around its mirror image (3, 3).
    assert places == {(row, column) for row in range(1, 6) for column in range(1, 7)}
    assert set(moved.unique().tolist()) == {1.0, image[0, 0, 0, 0].item()}


def test_evaluate_counts_and_keeps_the_mode():
    class Constant(nn.Module):
        def forward(self, x):
            assert not self.training
            return torch.eye(3)[torch.ones(len(x), dtype=torch.long)]

    network = Constant().train()
    split = Split(torch.zeros(7, 1, 2, 2), torch.tensor([1, 1, 0, 2, 1, 0, 0]))
    assert evaluate(network, split, batch_size=3) == pytest.approx(3 / 7)
    assert network.training


def test_same_seed_same_weights(small_data: Path):
    def trained() -> list[torch.Tensor]:
        torch.manual_seed(3)
        network = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
        losses = train(network, fashion_mnist(small_data)[0], optimizer, steps=7, batch_size=25, seed=5)
        assert len(losses) == 7
        return list(network.parameters())

    for once, again in zip(trained(), trained(), strict=True):
        assert torch.equal(once, again)


def test_an_objective_gets_scores_labels_and_images(small_data: Path):
    """Such as `Distillation`: without labels, and from a network like itself, there is nothing to learn."""
    network, split = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), fashion_mnist(small_data)[0]
    loss = Distillation(copy.deepcopy(network), label_weight=0.0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    train(network, split, optimizer, steps=2, batch_size=16, objective=loss, description=None)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name])


def test_training_stops_when_the_loss_is_no_number(small_data: Path):
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    optimizer = torch.optim.SGD(network.parameters(), lr=1e38)
    losses = train(network, fashion_mnist(small_data)[0], optimizer, steps=9, batch_size=32)
    assert len(losses) < 9
    assert not torch.tensor(losses[-1]).isfinite()


def arguments(data: Path, output: Path) -> list[str]:
    return [f"--data={data}", f"--output={output}", "--epochs=3", "--batch-size=16", "--threads=1"]


def test_script_writes_a_checkpoint(small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    threads = torch.get_num_threads()
    try:
        assert train_fashion_mnist.main(arguments(small_data, tmp_path / "a.safetensors")) == 0
    finally:
        torch.set_num_threads(threads)
    assert "test accuracy" in capsys.readouterr().out
    state = load_file(tmp_path / "a.safetensors")
    assert state["conv2.weight"].shape == (64, 32, 5, 5)
    assert int(state["norm1.num_batches_tracked"]) == 18


def test_script_writes_nothing_when_training_diverges(
    small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(train_fashion_mnist, "PEAK_LEARNING_RATE", 1e38)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    assert train_fashion_mnist.main(arguments(small_data, tmp_path / "a.safetensors")) == 1
    assert "nothing written" in capsys.readouterr().err
    assert not (tmp_path / "a.safetensors").exists()


def test_script_without_data(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert train_fashion_mnist.main([f"--data={tmp_path}"]) == 1
    assert "train-images-idx3-ubyte" in capsys.readouterr().err
