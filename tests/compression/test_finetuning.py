"""The built-in fine-tuning brings a model towards the original, and is told what it cannot use."""

import copy

import pytest
import torch
from torch import Tensor, nn

from cnnkern import CPConv2d
from cnnkern.compression import Distill
from cnnkern.compression.finetuning import factor_rates, parameter_groups
from cnnkern.nn import ConvolutionChain
from tests.compression.nets import chain

X = torch.randn(16, 3, 6, 6, generator=torch.Generator().manual_seed(2))


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), CPConv2d(8, 8, 3, rank=4), nn.Flatten(), nn.Linear(32, 3)
    )


def squared(y: Tensor, wanted: Tensor, labels: object) -> Tensor:
    return (y - wanted).square().mean()


def test_outputs_come_nearer_to_the_original():
    original, student = net(), net()
    with torch.no_grad():
        student[2].factor_k.mul_(0.5)
        before = squared(student(X), original(X), None)
    Distill([(X, None)], steps=60, learning_rate=0.2, loss=squared)(student, original)
    with torch.no_grad():
        assert squared(student(X), original(X), None) < before / 2


def test_layer_by_layer_trains_what_was_replaced_and_holds_the_rest():
    original, student = chain(), chain()
    student[2] = CPConv2d(16, 48, 5, padding=2, rank=8)
    student[4] = ConvolutionChain(nn.Conv2d(48, 8, 1), nn.Conv2d(8, 32, 3, padding=1, stride=2))
    before, trained = copy.deepcopy(student), []

    def watched(y: Tensor, wanted: Tensor, labels: object) -> Tensor:
        trained.append({name.split(".")[0] for name, p in student.named_parameters() if p.requires_grad})
        return squared(y, wanted, labels)

    Distill([(X, None)], steps=2, loss=watched, layer_by_layer=True)(student, original)
    assert trained == [{"2"}, {"2"}, {"4"}, {"4"}]
    assert all(parameter.requires_grad for parameter in student.parameters())
    for name, parameter in student.named_parameters():
        changed = not torch.equal(parameter, before.get_parameter(name))
        assert changed == (name.split(".")[0] in "24"), name


def test_each_factor_has_a_rate_of_its_own():
    model = net()
    groups = parameter_groups(model, 0.4)
    rates = factor_rates(model[2])
    assert [group["lr"] for group in groups] == [0.4, *(0.1 * rate for rate in rates.values())]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_training_ends_where_the_loss_is_not_finite():
    student = net()
    steps = []

    def endless(y: Tensor, wanted: Tensor, labels: object) -> Tensor:
        steps.append(1)
        return y.sum() * float("nan")

    Distill([(X, None)], steps=9, loss=endless)(student, net())
    assert len(steps) == 1
    assert all(torch.isfinite(parameter).all() for parameter in student.parameters())
    assert not student.training


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"steps": 1, "learning_rate": 0}, "learning_rate: expected a positive number, got 0"),
    ],
)
def test_what_cannot_be_is_named(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Distill([], loss=squared, **options)


def test_no_batches_are_refused():
    with pytest.raises(ValueError, match="batches: expected at least one, got none"):
        Distill([], steps=1, loss=squared)(net(), net())
