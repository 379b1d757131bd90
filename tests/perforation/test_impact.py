"""Impact masks keep the positions whose loss costs most."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnkern import perforation


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Conv2d(6, 4, 3, stride=2)
    )  # fmt: skip


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).square().mean()


def test_scores_are_what_first_order_says_that_zeros_change() -> None:
    model, batches = network(), [torch.randn(3, 3, 9, 8), torch.randn(2, 3, 9, 8)]
    scores = perforation.impact_scores(model, loss, batches)
    expected = torch.zeros(9, 8, dtype=torch.float64)
    for batch in batches:
        v = model[0](batch).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(model[1:].eval()(v.clone()).square().mean(), v)
        expected += (v.double() * gradient.double()).abs().sum(1).mean(0)
    assert list(scores) == ["0", "3"]
    torch.testing.assert_close(scores["0"], expected.detach() / 2)
    assert scores["3"].shape == (4, 3)


def test_a_position_that_the_loss_never_reads_goes_first() -> None:
    conv = nn.Conv2d(3, 4, 3, padding=1)
    scores = perforation.impact_scores(
        conv, lambda model, x: model(x)[..., ::2, ::2].square().sum(), [torch.randn(2, 3, 8, 8)], [""]
    )[""]
    mask = perforation.impact(scores, 0.75)
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[::2, ::2] = True
    assert torch.equal(mask, expected)


def test_the_highest_scores_are_kept_and_lots_decide_among_equals() -> None:
    scores = torch.tensor([[3.0, 1.0, 1.0], [1.0, 2.0, 1.0]])
    masks = [perforation.impact(scores, 0.5, seed) for seed in range(8)]
    assert all(mask[0, 0] and mask[1, 1] and mask.sum() == 3 for mask in masks)
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) > 1


def test_the_model_is_left_as_it_was() -> None:
    model = network().train()
    model[1].eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    perforation.impact_scores(model, loss, [torch.randn(2, 3, 9, 8)])
    assert [module.training for module in model] == [True, False, True, True]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_frozen_weights_and_a_layer_called_twice_have_scores_too() -> None:
    conv = nn.Conv2d(3, 3, 3, padding=1).requires_grad_(False)
    scores = perforation.impact_scores(conv, lambda m, x: F.relu(m(m(x))).sum(), [torch.randn(1, 3, 5, 6)])
    assert scores[""].shape == (5, 6)
    assert (scores[""] > 0).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batches": []}, "batches: expected at least one"),
        ({"layers": ["1"]}, "layers: expected names of torch.nn.Conv2d, got '1'"),
        ({"loss": lambda model, x: model[0](x).sum()}, "layers: the loss does not depend on 3"),
        (
            {"batches": [torch.randn(1, 3, 9, 8), torch.randn(1, 3, 8, 8)]},
            "batches: expected outputs of one size",
        ),
        (
            {"loss": lambda model, x: (model(x) * 0).detach().sum() + model[0](x).sum()},
            "does not depend on 3",
        ),
    ],
)
def test_data_that_cannot_be_are_refused(arguments: dict[str, Any], message: str) -> None:
    options = {"loss": loss, "batches": [torch.randn(2, 3, 9, 8)], **arguments}
    with pytest.raises(ValueError, match=message):
        perforation.impact_scores(network(), **options)


@pytest.mark.parametrize("scores", [torch.rand(3), torch.rand(0, 3), torch.full((2, 2), torch.nan)])
def test_scores_that_cannot_be_are_refused(scores: Tensor) -> None:
    with pytest.raises(ValueError, match="scores: expected numbers"):
        perforation.impact(scores, 0.5)
