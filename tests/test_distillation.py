"""The teacher-student loss is the formula that it is documented with."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot

from cnnkern.distillation import Distillation, distillation_loss


@pytest.mark.parametrize(("temperature", "weight"), [(2.0, 0.3), (5.0, 0.0), (1.0, 1.0)])
def test_the_loss_is_the_formula(temperature: float, weight: float) -> None:
    student, teacher = torch.randn(2, 7, 5).double()
    labels = torch.randint(0, 5, (7,))
    p = (teacher / temperature).softmax(1)
    a, a1 = (student / temperature).softmax(1), student.softmax(1)
    y = one_hot(labels, 5)
    expected = -(p * a.log()).sum() / 7 - weight * (y * a1.log()).sum() / 7
    options = {"temperature": temperature, "label_weight": weight}
    torch.testing.assert_close(distillation_loss(student, teacher, labels, **options), expected)
    torch.testing.assert_close(distillation_loss(student, teacher, y.double(), **options), expected)


def test_the_defaults_are_two_and_three_tenths() -> None:
    student, teacher, labels = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    expected = distillation_loss(student, teacher, labels, temperature=2.0, label_weight=0.3)
    assert torch.equal(distillation_loss(student, teacher, labels), expected)
    soft = distillation_loss(student, teacher)
    torch.testing.assert_close(expected - soft, 0.3 * nn.functional.cross_entropy(student, labels))


def test_hinton_s_form_is_a_multiple() -> None:
    student, teacher, labels = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    squared = 2.0**2
    hinton = squared * distillation_loss(student, teacher) + 1.2 * nn.functional.cross_entropy(
        student, labels
    )
    torch.testing.assert_close(squared * distillation_loss(student, teacher, labels), hinton)


def test_the_teacher_is_only_asked() -> None:
    teacher = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))
    student, x, labels = nn.Linear(3, 5), torch.randn(6, 3), torch.randint(0, 5, (6,))
    loss = Distillation(teacher)
    before = teacher[1].running_mean.clone()
    loss.train()(student(x), labels, x).backward()
    assert student.weight.grad is not None
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert torch.equal(teacher[1].running_mean, before)
    assert not teacher.training
    assert list(loss.parameters()) == []
    assert loss.state_dict() == {}
    expected = distillation_loss(student(x), teacher(x), labels)
    assert torch.equal(loss(student(x), labels, x), expected)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_other_temperatures_are_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature: expected a positive number"):
        Distillation(nn.Identity(), temperature)


def test_other_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="label_weight: expected a number that is not negative, got -1"):
        Distillation(nn.Identity(), label_weight=-1)
    with pytest.raises(ValueError, match=r"of one shape, got \(2, 3\) and \(2, 4\)"):
        distillation_loss(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"labels: expected classes .* logits of \(2, 3\), got \(2, 1\)"):
        distillation_loss(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 1))
