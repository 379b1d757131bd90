"""Weights kept as int8, everything computed in float."""

import copy
import io

import pytest
import torch
from torch import nn

from cnnkern import quantization
from tests.quantization.networks import Mobile, trained


def test_the_weights_are_those_of_the_integers() -> None:
    network, x = trained(Mobile)
    small = quantization.quantize_weights(network)
    expected = copy.deepcopy(network)
    for name, module in expected.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            q, scales = quantization.quantize_weight(module.weight)
            module.weight = nn.Parameter(quantization.dequantize_weight(q, scales))
            assert torch.equal(small.state_dict()[f"{name}.weight_int8"], q)
    with torch.no_grad():
        assert torch.equal(small(x), expected(x))


def test_the_state_dict_is_a_quarter_and_can_be_loaded() -> None:
    network = nn.Sequential(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3, padding_mode="circular"))
    small, other = (quantization.quantize_weights(each) for each in (network, copy.deepcopy(network)[:]))
    file = io.BytesIO()
    torch.save(small.state_dict(), file)
    sizes = [
        sum(v.numel() * v.element_size() for v in each.state_dict().values()) for each in (small, network)
    ]
    assert sizes[0] <= 0.28 * sizes[1]
    file.seek(0)
    other.load_state_dict(torch.load(file))
    x = torch.randn(1, 32, 9, 9)
    assert torch.equal(other(x), small(x))
    assert torch.equal(copy.deepcopy(small)(x), small(x))
    assert isinstance(small[0], nn.Conv2d)
    assert [name for name, _ in small.named_parameters()] == ["0.bias", "2.bias"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_the_weights_have_the_type_of_the_model(dtype: torch.dtype) -> None:
    network, x = trained(Mobile)
    small = quantization.quantize_weights(network).to(dtype)
    with torch.no_grad():
        y, expected = small(x.to(dtype)), network.to(dtype)(x.to(dtype))
    assert y.dtype == dtype
    assert (y - expected).abs().max() < 0.05 * expected.abs().max()


def test_the_model_is_not_changed_and_layers_can_be_kept() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))
    small = quantization.quantize_weights(network, keep=["1"])
    assert [type(layer) is nn.Linear for layer in network] == [True, True]
    assert [type(layer) is nn.Linear for layer in small] == [False, True]
    with pytest.raises(ValueError, match="keep: expected names of convolutions or linear layers, got 2"):
        quantization.quantize_weights(network, keep=["2"])
