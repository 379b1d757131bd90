"""Integers go from one int8 layer to the next where nothing else sees them, and nowhere else."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import cnnkern
from cnnkern import Int8Conv2d
from cnnkern.compression import to_stock
from cnnkern.compression.int8 import calibrated, trainable, without_grid
from cnnkern.compression.linking import link, unlink

X = torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(3))


class Net(nn.Module):
    """Int8 convolutions, each calibrated on what it gets, with `between` the first and the two after it."""

    def __init__(
        self, between: Callable[[Tensor], Tensor], after: Callable[..., Tensor] | None = None
    ) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.between = between
        self.after = after or (lambda first, left, right: torch.cat([left, right], dim=1))
        self.norm = nn.Identity()
        self.first, self.left, self.right = (
            nn.Conv2d(3, 8, 3),
            nn.Conv2d(8, 4, 1),
            nn.Conv2d(8, 5, 3, padding=1),
        )
        with torch.no_grad():
            self.first = calibrated(without_grid(self.first), [(X, self.first(X))])
            x = self.between(self.first(X))
            for name in ("left", "right"):
                conv = getattr(self, name)
                setattr(self, name, calibrated(without_grid(conv), [(x, conv(x))]))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        y = self.between(self.norm(self.first(x)))
        return self.after(y, self.left(y), self.right(y))


def given(model: nn.Module) -> Tensor:
    """The integers that `left` computes with."""
    seen = []
    hook = model.left.register_forward_pre_hook(lambda layer, args: seen.append(layer.integers(args[0])))
    with torch.no_grad():
        model(X)
    hook.remove()
    return seen[0].int()


def hooked(module: nn.Module) -> nn.Module:
    module.register_forward_hook(lambda *_: None)
    return module


PASSING = {
    "nothing": lambda x: x,
    "a ReLU": nn.ReLU(inplace=True),
    "a function": torch.relu,
    "a method": lambda x: x.relu_(),
    "pooling": nn.MaxPool2d(2),
    "pooling, then a ReLU": nn.Sequential(nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.ReLU()),
}


@pytest.mark.parametrize("asked", [True, False])
def test_only_the_layers_that_are_asked_to_hand_integers_on(asked: bool):
    model = Net(nn.ReLU())
    link(model, [model.first] if asked else [model.left])
    assert (model.first.out_scale is not None) == asked


@pytest.mark.parametrize("between", PASSING.values(), ids=PASSING)
def test_integers_pass_where_what_stands_between_keeps_their_order(between: Callable):
    model = Net(copy.deepcopy(between))
    before = given(model)
    assert link(model) is model
    assert model.first.numbers()[2:] == model.left.numbers()[:2]
    assert model.left.out_scale is None
    with torch.no_grad():
        assert model.first(X).dtype is torch.uint8
        assert model(X).dtype is torch.float32
    assert (given(model) - before).abs().max() <= 1  # what lies between two integers is rounded once
    assert unlink(model)
    assert torch.equal(given(model), before)
    assert not unlink(model)


@pytest.mark.parametrize(
    ("between", "after"),
    [
        (nn.ReLU6(), None),
        (nn.AvgPool2d(2), None),
        (hooked(nn.MaxPool2d(2)), None),
        (torch.relu, lambda first, left, right: torch.cat([first, left, right], dim=1)),
        (torch.relu, lambda first, left, right: left.mean() if left.sum() > 0 else right),
    ],
    ids=[
        "another operation",
        "an average",
        "a pooling with a hook",
        "another reader",
        "a model that cannot be traced",
    ],
)
def test_elsewhere_they_stay_real(between: Callable, after: Callable | None):
    model = link(Net(between, after))
    assert model.first.out_scale is None
    assert not unlink(model)


def test_readers_of_other_grids_get_real_numbers():
    model = Net(torch.relu)
    model.left.x_scale = model.left.x_scale * 2
    assert link(model).first.out_scale is None


def test_a_linked_model_is_saved_trained_and_exported(tmp_path: Path):
    model = link(Net(torch.relu))
    cnnkern.save(model, tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(cnnkern.load(tmp_path / "model", model)(X), model(X))
        # one step of a grid, in each of eight channels, makes the difference there may be
        step = model.left.numbers()[0] * model.left.real_weight().abs().sum(dim=(1, 2, 3)).max()
        assert (to_stock(model)(X)[:, :4] - model(X)[:, :4]).abs().max() <= 1.001 * step
    with trainable(model) as network:
        network(X).sum().backward()
        assert network.first[1].layer.weight.grad.abs().sum() > 0
    assert type(model.first) is Int8Conv2d
    assert model.first.out_scale is not None


class Fire(nn.Module):
    """Two branches that are joined, as in SqueezeNet; `left` alone may be int8."""

    def __init__(self, both: bool) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 3, padding=1)
        self.pool, self.last = nn.MaxPool2d(3, 2), nn.Conv2d(10, 5, 3)
        with torch.no_grad():
            self.left = calibrated(without_grid(self.left), [(X, self.left(X))])
            if both:
                self.right = calibrated(without_grid(self.right), [(X, self.right(X))])
            x = self.joined(X)
            self.last = calibrated(without_grid(self.last), [(x, self.last(x))])
        self.eval()

    def joined(self, x: Tensor) -> Tensor:
        return self.pool(torch.cat([self.left(x).relu(), self.right(x).relu_()], dim=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.joined(x))


def test_integers_pass_through_a_concatenation_of_integers_alone():
    model = Fire(both=True)
    with torch.no_grad():
        before = model(X)
        link(model)
        assert model.joined(X).dtype is torch.uint8
        step = model.last.numbers()[0] * model.last.real_weight().abs().sum(dim=(1, 2, 3)).max()
        assert (model(X) - before).abs().max() <= 1.001 * step
        assert unlink(model)
        assert torch.equal(model(X), before)
        assert link(Fire(both=False)).joined(X).dtype is torch.float32


def test_relus_that_have_nothing_left_to_do_are_left_out(tmp_path: Path):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 4, 3), nn.ReLU()
    ).eval()
    plain, x = copy.deepcopy(model), X
    with torch.no_grad():
        for index in (0, 3):
            y = model[index](x)
            model[index] = calibrated(without_grid(model[index]), [(x, y)])
            x = model[index + 1 : index + 3](y)
        before = model(X)
        link(model)
        assert [type(layer) for layer in (model[1], model[4])] == [nn.Identity, nn.Identity]
        assert torch.allclose(model(X), before, atol=0.1 * before.max().item())
        assert (model(X) >= 0).all()
        cnnkern.save(model, tmp_path / "model")
        assert torch.equal(cnnkern.load(tmp_path / "model", plain)(X), model(X))
        assert torch.allclose(to_stock(model)(X), model(X), atol=0.1 * before.max().item())
