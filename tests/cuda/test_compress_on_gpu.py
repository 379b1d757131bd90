"""`cnnkern.profile` and `cnnkern.compress` of a model on a GPU.

Skipped where there is none, or where packages that a search needs are missing.
"""

from pathlib import Path

import pytest
import torch
from torch import nn

import cnnkern

pytestmark = pytest.mark.usefixtures("gpu")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.Conv2d(64, 128, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(128, 128, 3, padding=1), nn.ReLU()),
    ).eval()


def test_profile_has_the_time_of_every_layer() -> None:
    pytest.importorskip("rich")
    found = cnnkern.profile(network().cuda(), torch.randn(8, 3, 56, 56, device="cuda"), seconds=0.2)
    assert len(found.layers) == 8
    assert all(layer.seconds >= 0 for layer in found.layers)
    assert found.device == torch.cuda.get_device_name()


@pytest.mark.parametrize("method", ["cp", "tucker2", "column_sparse", "perforated", "int8"])
def test_compress_leaves_the_model_where_it_is(method: str, tmp_path: Path) -> None:
    for package in ("rich", "scipy", "safetensors", "tqdm"):
        pytest.importorskip(package)
    model, x = network().cuda(), torch.randn(8, 3, 56, 56, device="cuda")
    faster, report = cnnkern.compress(model, x, target_speedup=1.2, methods=[method], seconds=0.05)
    assert report.environment["gpu"] == torch.cuda.get_device_name()
    assert {tensor.device.type for tensor in faster.state_dict().values()} == {"cuda"}
    with torch.no_grad():
        y = faster(x)
        assert y.is_cuda
        if report.changed:
            cnnkern.save(faster, tmp_path / "faster.safetensors")
            again = cnnkern.load(tmp_path / "faster.safetensors", network().cuda())
            assert torch.equal(again(x), y)
