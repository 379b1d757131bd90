"""A stock network in another process gives what it gives here, quantized by torch nearly so."""

import pytest
import torch

from bench.rivals.onnx_runtime import OnnxRuntime
from bench.rivals.torch_network import LAYOUTS, TorchNetwork
from bench.timing import check
from examples.networks import lenet


@pytest.fixture
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return lenet().eval()


def test_torch_int8_is_near_the_network_in_both_layouts(network: torch.nn.Module):
    x = torch.randn(32, 1, 28, 28)
    with TorchNetwork("int8", "examples.networks:lenet", threads=1) as process, torch.inference_mode():
        calls = process.contenders(network, x[:4], calibration=x)
        assert [call.name for call in calls] == list(LAYOUTS)
        for call in calls:
            for given, expected in ((None, network(x[:4])), (x, network(x))):
                found = call.output(given)
                assert found.shape == expected.shape
                assert 0 < (found - expected).norm() < 0.1 * expected.norm()
            assert 0 < call.burst(2) < 10


def test_an_exported_network_is_the_same_in_onnx_runtime(network: torch.nn.Module):
    x = torch.randn(8, 1, 28, 28)
    with OnnxRuntime() as process, torch.inference_mode():
        call = process.exported_contender(network, x[:2])
        check(call, network(x[:2]), torch.tensor(1e-5))
        assert torch.allclose(call.output(x), network(x), atol=1e-5)
