"""Batch norm folded into the layer before it: the same outputs, names and structure."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cnnkern.folding import UntraceableError, fold_batch_norm, trace


def used(norm: nn.Module) -> nn.Module:
    """With statistics and parameters that are not those of a start."""
    with torch.no_grad():
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.1, 3)
        if norm.affine:
            norm.weight.normal_()
            norm.bias.normal_()
    return norm


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
        (nn.Conv2d(4, 8, 3, padding=1, groups=4, bias=False), nn.BatchNorm2d(8, eps=0.1)),
        (nn.Conv2d(3, 4, (1, 3), stride=2, dilation=2), nn.BatchNorm2d(4, affine=False)),
        (nn.Linear(7, 5), nn.BatchNorm1d(5)),
    ],
    ids=str,
)
def test_the_folded_layer_computes_the_same(layers: tuple[nn.Module, nn.Module]) -> None:
    model = nn.Sequential(layers[0], used(layers[1]), nn.ReLU()).double()
    folded = fold_batch_norm(model)
    assert [type(part) for part in folded] == [type(layers[0]), nn.Identity, nn.ReLU]
    x = torch.randn((3, 7) if isinstance(layers[0], nn.Linear) else (2, layers[0].in_channels, 9, 8)).double()
    torch.testing.assert_close(folded(x), model.eval()(x), rtol=1e-12, atol=1e-12)


def test_a_synchronized_norm_is_folded_as_any_other() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), used(nn.SyncBatchNorm(4))).eval()
    folded, x = fold_batch_norm(model), torch.randn(2, 3, 5, 5)
    assert isinstance(folded[1], nn.Identity)
    torch.testing.assert_close(folded(x), model(x))


def test_float32_weights_are_rounded_once() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), used(nn.BatchNorm2d(4)))
    exact = fold_batch_norm(model.double())
    folded = fold_batch_norm(model.float())
    assert torch.equal(folded[0].weight, exact[0].weight.float())
    assert torch.equal(folded[0].bias, exact[0].bias.float())


class Shared(nn.Module):
    """Convolutions whose norm cannot be folded: used twice, its output used elsewhere, the norm first."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.norm = nn.Conv2d(3, 3, 3, padding=1), used(nn.BatchNorm2d(3))
        self.seen, self.other = nn.Conv2d(3, 3, 1), used(nn.BatchNorm2d(3))
        self.first, self.last = used(nn.BatchNorm2d(3)), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.twice(x)) + self.twice(x)
        y = self.seen(x)
        return self.last(self.first(self.other(y) + y))


def test_what_would_not_be_the_same_is_left() -> None:
    model = Shared().eval()
    folded = fold_batch_norm(model)
    assert all(isinstance(getattr(folded, name), nn.BatchNorm2d) for name in ("norm", "other", "first"))
    x = torch.randn(2, 3, 5, 5)
    assert torch.equal(folded(x), model(x))


def test_the_model_is_not_changed() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), used(nn.BatchNorm2d(4))).train()
    before: dict[str, Any] = {name: value.clone() for name, value in model.state_dict().items()}
    assert not fold_batch_norm(model).training
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_model_that_cannot_be_traced_is_refused() -> None:
    class Dynamic(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(UntraceableError, match="cannot trace Dynamic"):
        fold_batch_norm(Dynamic())


def test_a_norm_in_a_plain_list_is_folded_there_too() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), used(nn.BatchNorm2d(4))
            self.order = [self.conv, self.norm]

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.order:
                x = layer(x)
            return x

    model, x = Listed().double().eval(), torch.randn(2, 3, 5, 5).double()
    folded = fold_batch_norm(model)
    assert folded.order[1] is folded.norm
    assert isinstance(folded.norm, nn.Identity)
    torch.testing.assert_close(folded(x), model(x), rtol=1e-12, atol=1e-12)


def test_what_is_looked_at_or_used_besides_is_left() -> None:
    class Used(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), used(nn.BatchNorm2d(4))

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.conv(x)) + nn.functional.conv2d(x, self.conv.weight)

    hooked = nn.Sequential(nn.Conv2d(3, 4, 1), used(nn.BatchNorm2d(4)))
    hooked[1].register_forward_hook(lambda norm, args, y: 2 * y)
    x = torch.randn(2, 3, 5, 5)
    for model in (Used().eval(), hooked.eval()):
        assert torch.equal(fold_batch_norm(model)(x), model(x))


def test_a_trace_leaves_nothing_behind_in_the_model() -> None:
    class Keeps(nn.Module):
        last = None

        def forward(self, x: Tensor) -> Tensor:
            self.last = x
            return x + 1

    model = Keeps()
    trace(model)
    assert model.last is None
