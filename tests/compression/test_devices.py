"""Layers are timed where the model is; what cannot be is said at once.

The rest is in tests/cuda/test_compress_on_gpu.py, where there is a GPU.
"""

import pytest
import torch
from torch import nn

import cnnkern
from cnnkern import _C, cli
from cnnkern.compression.candidates import timed
from cnnkern.compression.inspection import Place
from cnnkern.compression.methods import METHODS
from tests.compression.nets import chain

SHAPE = "--input-shape=2,3,20,20"


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.blank] + ["int8"])
def test_candidates_are_timed_on_the_device_of_the_model(name: str):
    """Meta tensors, which fail where they meet the CPU's, have no numbers to choose columns or masks by."""
    conv, x = nn.Conv2d(64, 64, 3, device="meta").eval(), torch.ones(2, 64, 12, 12, device="meta")
    _, candidates = timed(Place("conv", conv, x), [name], 1e-3)
    assert {candidate.method for candidate in candidates} == {"dense", name}


def test_a_device_without_kernels_is_refused(monkeypatch: pytest.MonkeyPatch):
    model, x = chain().to("meta"), torch.ones(1, 3, 20, 20, device="meta")
    with pytest.raises(NotImplementedError, match="model: expected one on the CPU or a CUDA device"):
        cnnkern.compress(model, x, target_speedup=2)
    build = {**_C.build_info(), "cuda": False, "cuda_reason": "no nvcc"}
    monkeypatch.setattr(_C, "build_info", lambda: build)
    with pytest.raises(NotImplementedError, match=r"without CUDA kernels \(no nvcc\), got one on cuda:0"):
        cnnkern.compression.asked.check_device(torch.device("cuda:0"))


@pytest.mark.parametrize("device", ["cuda:63", "gpu"])
def test_the_command_line_takes_devices_that_are_there(device: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["profile", "tests.compression.nets:chain", SHAPE, f"--device={device}"])
    assert f"argument --device: expected {'a device that torch has' if ':' in device else 'cpu'}" in (
        capsys.readouterr().err
    )
    assert cli.main(["profile", "torch.nn:Identity", SHAPE, "--device=meta", "--seconds=0.001"]) == cli.ERROR
    assert "expected one on the CPU or a CUDA device" in capsys.readouterr().err
