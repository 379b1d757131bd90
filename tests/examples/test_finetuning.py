"""Fine-tuning of CP layers: steps no longer than a dense layer's, factors in turn, parts held fixed."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from cnnkern import CPConv2d, decomposition
from cnnkern.distillation import Distillation
from examples import stability
from examples.datasets import fashion_mnist
from examples.finetuning import FACTORS, factor_rates, finetune


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        CPConv2d(1, 4, 5, stride=4, rank=3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10)
    )


@pytest.mark.parametrize("name", FACTORS)
def test_step_of_a_factor_moves_the_weight_by_at_most_lambda(name: str):
    """λ is the squared spectral norm of the map from the factor to the weight, which is linear."""
    layer = CPConv2d(4, 6, 3, rank=5).double()

    def weight(factor: torch.Tensor) -> torch.Tensor:
        factors = [factor if other == name else getattr(layer, other).detach() for other in FACTORS]
        return torch.einsum("kr,rc,ri,rj->kcij", factors)

    jacobian = torch.autograd.functional.jacobian(weight, getattr(layer, name).detach())
    jacobian = jacobian.reshape(layer.to_conv().weight.numel(), -1)
    assert 1 / factor_rates(layer)[name] == pytest.approx(torch.linalg.matrix_norm(jacobian, 2).item() ** 2)


def test_groups_are_refused():
    with pytest.raises(ValueError, match="groups=1, got 2"):
        factor_rates(CPConv2d(4, 6, 3, groups=2, rank=4))


def test_fixed_layers_stay_as_they_are(small_data: Path):
    network = small_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    losses = finetune(
        network, fashion_mnist(small_data)[0], steps=4, fixed=["0"], batch_size=16, description=None
    )
    assert len(losses) == 4
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("0.")
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_factors_take_turns(small_data: Path):
    network = small_network()
    before = {name: getattr(network[0], name).detach().clone() for name in FACTORS}
    training = fashion_mnist(small_data)[0]
    finetune(network, training, steps=4, alternate=2, batch_size=16, description=None)
    moved = {name for name in FACTORS if not torch.equal(getattr(network[0], name), before[name])}
    assert moved == set(FACTORS[:2])
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_a_teacher_can_say_where_to(small_data: Path):
    teacher, network = (nn.Sequential(nn.Flatten(), nn.Linear(784, 10)) for _ in range(2))
    training = fashion_mnist(small_data)[0]
    loss = Distillation(teacher)
    losses = finetune(
        network, training, steps=12, learning_rate=0.01, batch_size=32, objective=loss, description=None
    )
    assert losses[-1] < losses[0]


def test_same_seed_same_weights(small_data: Path):
    networks = small_network(), small_network()
    for network in networks:
        finetune(network, fashion_mnist(small_data)[0], steps=3, batch_size=16, description=None)
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("variant", stability.VARIANTS, ids=lambda variant: variant.name)
def test_variants_stand_for_the_same_weight(variant: stability.Variant):
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 8, 3, padding=1, bias=False)
    with torch.no_grad():
        conv.weight.copy_(CPConv2d(6, 8, 3, rank=2).to_conv().weight)
    fit = decomposition.cp(conv.weight.detach(), 2, correction=variant.corrected, verbose=False)
    layer = stability.cp_layer(conv, fit, variant.balanced)
    torch.testing.assert_close(layer.to_conv().weight, conv.weight, rtol=1e-4, atol=1e-5)
    norms = layer.factor_c.norm(dim=1), layer.factor_k.norm(dim=0)
    assert torch.allclose(*norms, rtol=1e-3) == variant.balanced


def test_stability_script(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(stability, "VARIANTS", stability.VARIANTS[-2:])
    output = tmp_path / "out"
    options = [f"--data={small_data}", f"--output={output}", "--rank=2", "--steps=4", "--seeds=2"]
    assert stability.main([*options, "--threads=1"]) == 0
    _, outcome = json.loads((output / "stability.json").read_text())["outcomes"]
    assert outcome["name"] == "all three + factors in turn"
    assert [len(run["losses"]) for run in outcome["runs"]] == [4, 4]
    assert outcome["runs"][0]["losses"] != outcome["runs"][1]["losses"]
    assert (output / "stability.png").read_bytes().startswith(b"\x89PNG")
