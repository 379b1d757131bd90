"""Scores of columns against sums written out by hand."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cnnkern import pruning


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).square().sum()


def column_by_column(conv: nn.Conv2d, values: list[Tensor], score: Callable[[Tensor], Tensor]) -> Tensor:
    """The mean over `values`, shaped like the weight, of `score` of each of their columns (G, columns)."""
    groups, outputs = conv.groups, conv.out_channels // conv.groups
    columns = [
        [
            torch.stack([score(value[g * outputs : (g + 1) * outputs, c, i, j]) for value in values]).mean()
            for c in range(conv.in_channels // groups)
            for i in range(conv.kernel_size[0])
            for j in range(conv.kernel_size[1])
        ]
        for g in range(groups)
    ]
    return torch.tensor(columns, dtype=torch.float64)


@pytest.fixture(params=[1, 2, 4], ids="groups={}".format)
def conv(request: pytest.FixtureRequest) -> nn.Conv2d:
    return nn.Conv2d(4, 8, (3, 2), groups=request.param, dtype=torch.float64)


@pytest.fixture
def products(conv: nn.Conv2d) -> tuple[list[Tensor], list[Tensor]]:
    """Three batches, and W·∂L/∂W for each."""
    batches = list(torch.randn(3, 2, 4, 5, 6, dtype=torch.float64))
    gradients = [torch.autograd.grad(loss(conv, x), conv.weight)[0] for x in batches]
    return batches, [conv.weight.detach() * gradient for gradient in gradients]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_norms(conv: nn.Conv2d, memory_format: torch.memory_format) -> None:
    conv = conv.to(memory_format=memory_format)
    expected = column_by_column(conv, [conv.weight.detach()], lambda w: w.square().sum().sqrt())
    torch.testing.assert_close(pruning.column_norms(conv.weight.detach(), conv.groups), expected)
    torch.testing.assert_close(pruning.l2(conv)[""], expected / conv.weight.detach().norm())


def test_taylor(conv: nn.Conv2d, products: tuple[list[Tensor], list[Tensor]]) -> None:
    batches, values = products
    expected = column_by_column(conv, values, lambda product: product.sum().abs())
    torch.testing.assert_close(pruning.taylor(loss, batches)(conv, [""])[""], expected)


def test_fisher(conv: nn.Conv2d, products: tuple[list[Tensor], list[Tensor]]) -> None:
    batches, values = products
    expected = column_by_column(conv, values, lambda product: product.square().sum() / 2)
    torch.testing.assert_close(pruning.fisher(loss, batches)(conv, [""])[""], expected)


def test_taylor_is_the_change_of_the_loss_for_small_columns() -> None:
    conv = nn.Conv2d(2, 4, 3, dtype=torch.float64)
    with torch.no_grad():
        conv.weight[:, 1, 2, 0] *= 1e-6
    x = torch.randn(2, 2, 5, 6, dtype=torch.float64)
    score = pruning.taylor(loss, [x])(conv)[""][0, 1 * 9 + 2 * 3 + 0].item()
    with torch.no_grad():
        before = loss(conv, x)
        conv.weight[:, 1, 2, 0] = 0
        change = (loss(conv, x) - before).abs().item()
    assert score == pytest.approx(change, rel=1e-4)


def test_scoring_leaves_the_model_as_it_is() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3).eval(), nn.Dropout(), nn.Conv2d(3, 2, 1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batches = [torch.randn(2, 2, 5, 5)]
    first = pruning.fisher(loss, batches)(model)
    assert list(first) == ["0", "3"]
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert [module.training for module in model] == [True, False, True, True]
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, scores in pruning.fisher(loss, batches)(model).items():
        assert torch.equal(scores, first[name])  # dropout took no part


def test_frozen_weights_are_scored_and_stay_frozen() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 1))
    expected = pruning.taylor(loss, [torch.ones(1, 2, 5, 5)])(model)
    model[0].requires_grad_(False)
    scores = pruning.taylor(loss, [torch.ones(1, 2, 5, 5)])(model)
    assert torch.equal(scores["0"], expected["0"])
    assert [parameter.requires_grad for parameter in model.parameters()] == [False, False, True, True]


def test_what_cannot_be_scored_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU())
    with pytest.raises(ValueError, match="got '1', which is ReLU"):
        pruning.l2(model, ["1"])
    with pytest.raises(ValueError, match="got 'conv', which is nothing"):
        pruning.l2(model, ["conv"])
    with pytest.raises(TypeError, match="the string '0'"):
        pruning.l2(model, "0")
    with pytest.raises(ValueError, match="expected at least one"):
        pruning.l2(nn.ReLU())
    with pytest.raises(ValueError, match="batches: expected at least one"):
        pruning.taylor(loss, [])(model)
    with pytest.raises(ValueError, match="the loss does not depend on '0'"):
        pruning.fisher(lambda model, batch: batch.sum().requires_grad_(), [torch.ones(1)])(model)
    with pytest.raises(ValueError, match="'0' is computed from others"):
        pruning.l2(nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 3, 3))))
