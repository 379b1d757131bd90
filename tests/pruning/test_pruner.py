"""Pruned columns are zero and stay zero, whatever optimizer trains the model."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cnnkern import pruning
from cnnkern.pruning import Pruner, column_norms

OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    "Adam": lambda parameters: torch.optim.Adam(parameters, 0.01, weight_decay=0.1, amsgrad=True),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, 0.01, foreach=True),
}


def network() -> nn.Sequential:
    layers = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3, groups=2)
    return nn.Sequential(*layers)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        (model(torch.randn(4, 3, 7, 7)) - 1).square().mean().backward()
        optimizer.step()


def assert_zero_where_pruned(model: nn.Module, pruner: Pruner) -> None:
    for name, mask in pruner.masks.items():
        conv = model.get_submodule(name)
        assert torch.equal(column_norms(conv.weight, conv.groups) > 0, mask)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_pruned_columns_stay_zero(
    optimizer: Callable[..., torch.optim.Optimizer], memory_format: torch.memory_format
) -> None:
    model = network().to(memory_format=memory_format)
    training = optimizer(list(model.parameters()))
    train(model, training, 3)  # moments that would move the columns from zero
    pruner = Pruner(model)
    pruner.hold(training)
    for density in (0.7, 0.3):
        pruner.prune(density)
        assert_zero_where_pruned(model, pruner)
        train(model, training, 3)
        assert_zero_where_pruned(model, pruner)
    assert pruner.densities == pytest.approx({"0": 8 / 27, "3": 11 / 36})
    for name, mask in pruner.masks.items():
        conv = model.get_submodule(name)
        assert torch.equal(column_norms(conv.weight.grad, conv.groups) > 0, mask)


def test_gradient_scaling_keeps_zeros_also_when_a_step_is_skipped() -> None:
    model = network()
    training = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train(model, training, 2)
    pruner = pruning.prune(model, 0.3)
    pruner.hold(training)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    before = model[3].weight.detach().clone()
    for factor in (1.0, float("inf"), 1.0):
        training.zero_grad()
        scaler.scale(factor * model(torch.randn(4, 3, 7, 7)).square().mean()).backward()
        scaler.step(training)
        scaler.update()
        assert_zero_where_pruned(model, pruner)
    assert scaler.get_scale() == 4.0  # one step was skipped
    assert not torch.equal(model[3].weight, before)


def test_nothing_is_held_after_release() -> None:
    model = network()
    training = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = pruning.prune(model, 0.3)
    pruner.hold(training)
    pruner.release()
    train(model, training, 1)
    assert (column_norms(model[0].weight) > 0).all()


def test_a_frozen_layer_is_pruned_too() -> None:
    model = network()
    model[0].requires_grad_(False)
    training = torch.optim.SGD(model[1:].parameters(), lr=0.1)
    pruner = pruning.prune(model, 0.3)
    pruner.hold(training)
    train(model, training, 1)
    assert_zero_where_pruned(model, pruner)


def test_the_weakest_columns_go_and_the_rest_is_untouched() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pruner = pruning.prune(model, 0.5, layers=["3"])
    norms = column_norms(before["3.weight"], groups=2)
    for row, kept in zip(norms, pruner.masks["3"], strict=True):
        assert row[kept].min() > row[~kept].max()
        assert kept.sum() == 18
    after = model.state_dict()
    assert after.keys() == before.keys()
    expected = before["3.weight"].reshape(2, 3, -1) * pruner.masks["3"].unsqueeze(1)
    assert torch.equal(after.pop("3.weight").reshape(2, 3, -1), expected)
    for name, value in after.items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_pruned_columns_do_not_come_back(scope: str) -> None:
    model = network()
    pruner = pruning.prune(model, 0.3, scope=scope)
    before = pruner.state_dict()
    pruner.prune(
        0.6, scope=scope, criterion=lambda model, layers: {n: -m.double() for n, m in before.items()}
    )
    for name, mask in pruner.masks.items():
        assert torch.equal(mask, before[name])


def test_any_criterion_will_do() -> None:
    def last_columns(model: nn.Module, layers: list[str]) -> dict[str, Tensor]:
        assert layers == ["0"]
        return {"0": torch.arange(27.0).unsqueeze(0)}

    masks = pruning.prune(network(), 9 / 27, criterion=last_columns, layers=["0"]).masks
    assert masks["0"].nonzero()[:, 1].tolist() == list(range(18, 27))
    with pytest.raises(ValueError, match=r"scores \(2, 36\) for '3', got \(1, 27\)"):
        pruning.prune(network(), 0.5, criterion=lambda *_: {"3": torch.zeros(1, 27)}, layers=["3"])
    with pytest.raises(ValueError, match=r"scores \(2, 36\) for '3', got None"):
        pruning.prune(network(), 0.5, criterion=lambda *_: {}, layers=["3"])


def test_masks_go_from_one_pruner_to_another() -> None:
    model, other = network(), network()
    pruner, resumed = pruning.prune(model, 0.3), Pruner(other)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        other[0].weight.add_(1)
    resumed.load_state_dict(pruner.state_dict())
    assert_zero_where_pruned(other, resumed)
    for name, mask in pruner.masks.items():
        assert torch.equal(mask, resumed.masks[name])
    with pytest.raises(ValueError, match="expected masks of shapes"):
        Pruner(model, ["0"]).load_state_dict(pruner.state_dict())
