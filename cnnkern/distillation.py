"""Knowledge exchange: a student is trained towards the softened outputs of a teacher, and towards the labels.

Hinton, Vinyals, Dean, Distilling the knowledge in a neural network, 2015. With a_T = softmax(student / T) and
p_T = softmax(teacher / T), over N samples and the classes j,

    L = −(1/N) Σ_i Σ_j p_T[i, j] log a_T[i, j] − λ (1/N) Σ_i Σ_j y[i, j] log a_1[i, j].

There is no factor T² before the first term, which Hinton et al. add since its gradient shrinks as 1/T². Their
form T² · soft + μ · hard is this one with λ = μ/T², at a learning rate T² times as large: with T = 2, λ = 0.3
here is μ = 1.2 there.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TEMPERATURE = 2.0
LABEL_WEIGHT = 0.3


def distillation_loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor | None = None,
    *,
    temperature: float = TEMPERATURE,
    label_weight: float = LABEL_WEIGHT,
) -> Tensor:
    """L of the head of this file, a scalar.

    Args:
        student: logits (N, classes).
        teacher: logits (N, classes); no gradient goes there.
        labels: classes (N) int64, or probabilities (N, classes). Without them there is no second term.
        temperature: T.
        label_weight: λ.

    Raises ValueError for shapes that differ and for a temperature or a weight that cannot be.
    """
    _check(temperature, label_weight)
    if student.shape != teacher.shape or student.dim() != 2:
        raise ValueError(
            f"student, teacher: expected logits (N, classes) of one shape, got {tuple(student.shape)} and "
            f"{tuple(teacher.shape)}"
        )
    if labels is not None and labels.shape not in (student.shape[:1], student.shape):
        raise ValueError(
            f"labels: expected classes or probabilities for logits of {tuple(student.shape)}, got "
            f"{tuple(labels.shape)}"
        )
    targets = (teacher.detach() / temperature).softmax(dim=1)
    loss = F.cross_entropy(student / temperature, targets)
    return loss if labels is None else loss + label_weight * F.cross_entropy(student, labels)


class Distillation(nn.Module):
    """`distillation_loss` with a teacher: `loss(scores, labels, images)` in a training loop.

    The teacher stays in eval mode, is run without gradients, and is no part of what is trained, saved or
    moved.

    Args:
        teacher: gives logits (N, classes) for a batch of inputs.
        temperature, label_weight: T and λ.
    """

    def __init__(
        self, teacher: nn.Module, temperature: float = TEMPERATURE, label_weight: float = LABEL_WEIGHT
    ) -> None:
        super().__init__()
        _check(temperature, label_weight)
        # in a tuple, so that it is not a submodule, with parameters of this one
        self._teacher = (teacher.eval(),)
        self.temperature = temperature
        self.label_weight = label_weight

    @property
    def teacher(self) -> nn.Module:
        """The teacher."""
        return self._teacher[0]

    def forward(self, student: Tensor, labels: Tensor | None, *inputs: Any) -> Tensor:
        """The loss of the student's logits (N, classes) for `inputs`, which the teacher gets too."""
        with torch.no_grad():
            teacher = self.teacher(*inputs)
        return distillation_loss(
            student, teacher, labels, temperature=self.temperature, label_weight=self.label_weight
        )

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}, label_weight={self.label_weight}"


def _check(temperature: float, label_weight: float) -> None:
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature: expected a positive number, got {temperature!r}")
    if not 0 <= label_weight < math.inf:
        raise ValueError(f"label_weight: expected a number that is not negative, got {label_weight!r}")
