"""Post-training quantization: close to the float model, biases corrected, the report measured."""

import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import cnnkern
from cnnkern import quantization
from cnnkern.quantization import LeastSquares, MinMax, Observer, Percentile
from tests.quantization.networks import NETWORKS, Residual, trained


@pytest.mark.parametrize("observer", [MinMax, partial(Percentile, 0.9999), LeastSquares], ids=str)
@pytest.mark.parametrize("make", NETWORKS)
def test_outputs_stay_close(make: Callable[[], nn.Module], observer: Callable[[], Observer]) -> None:
    network, x = trained(make)
    model, report = quantization.quantize(network, [x[:3], x[3:]], observer=observer)
    with torch.no_grad():
        y, expected = model(x), network(x)
    ratio = 10 * torch.log10(expected.square().sum() / (y - expected).square().sum())
    assert ratio > 25
    assert min(row.snr for row in report.layers) > 20


def test_the_same_batches_give_the_same_model() -> None:
    network, x = trained(Residual)
    first, second = (quantization.quantize(network, [x]).model.state_dict() for _ in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name])


def test_the_correction_keeps_the_means() -> None:
    """One layer whose weights lose much: its mean output is the float one's, and was not before."""
    torch.manual_seed(1)
    conv = nn.Conv2d(4, 6, 3, padding=1)
    with torch.no_grad():
        conv.weight[:, 0, 0, 0] = 40  # the other weights fall on few integers
    x = torch.rand(8, 4, 12, 12)
    means = {}
    with torch.no_grad():
        expected = conv(x).mean(dim=(0, 2, 3))
        for corrected in (False, True):
            model, _ = quantization.quantize(nn.Sequential(conv), [x], bias_correction=corrected)
            means[corrected] = (model(x).mean(dim=(0, 2, 3)) - expected).abs().max().item()
    assert means[True] < means[False] / 4


def test_an_int8_model_can_be_copied_in_inference_mode() -> None:
    network, x = trained(Residual)
    model, _ = quantization.quantize(network, [x])
    with torch.inference_mode():
        expected = model(x)
        copied = copy.deepcopy(model).to(memory_format=torch.channels_last)
        assert torch.equal(copied(x), expected)
        assert torch.equal(copied(x.contiguous(memory_format=torch.channels_last)), expected)


@pytest.mark.parametrize("make", NETWORKS)
def test_it_is_kept_in_a_file(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    network, x = trained(make)
    model, other = (quantization.quantize(network, [each]).model for each in (x, torch.zeros_like(x[:1])))
    cnnkern.save(model, tmp_path / "int8.safetensors")
    loaded = cnnkern.load(tmp_path / "int8.safetensors", other)
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))


def test_the_report_can_be_read() -> None:
    network, x = trained(Residual)
    _, report = quantization.quantize(network, [x], keep=["head"])
    document = json.loads(report.to_json())
    assert [row["name"] for row in document["layers"]] == [row.name for row in report.layers]
    assert all(isinstance(row["snr"], float) for row in document["layers"])
    assert document["floats"] == report.floats
    assert "blocks.0.conv1" in str(report)
    assert "kept in float32, as asked for" in str(report)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(5, 4)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"sum": self.a(x) + self.b(y)}


def test_batches_may_be_tuples_of_arguments() -> None:
    network, batch = TwoInputs(), (torch.randn(6, 3), torch.randn(6, 5))
    model, report = quantization.quantize(network, [batch])
    assert report.floats == {"add": "no int8 layer follows"}
    with torch.no_grad():
        expected = network(*batch)["sum"]
        assert (model(*batch)["sum"] - expected).norm() < 0.05 * expected.norm()


def test_the_int8_model_is_a_quarter_of_the_size() -> None:
    network = nn.Sequential(nn.Conv2d(16, 64, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 64, 3)).eval()
    model, _ = quantization.quantize(network, [torch.randn(2, 16, 9, 9)])
    sizes = [
        sum(value.numel() * value.element_size() for value in each.state_dict().values())
        for each in (model, network)
    ]
    assert sizes[0] <= 0.28 * sizes[1]


def test_no_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="calibration_batches: expected at least one, got none"):
        quantization.quantize(nn.Linear(3, 4), [])


def test_other_models_and_batches_are_refused() -> None:
    with pytest.raises(TypeError, match=r"model: expected a .*Module, got str"):
        quantization.quantize("model.pt", [torch.randn(2, 3)])
    with pytest.raises(TypeError, match=r"calibration_batches: expected batches, .* got a tensor"):
        quantization.quantize(nn.Linear(3, 4), torch.randn(2, 3))


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="expected finite values"):
        quantization.quantize(nn.Linear(3, 4), [torch.full((2, 3), torch.inf)])
