"""A DenseNet and a SqueezeNet for images of 28x28: the teacher and the student of a distillation.

Huang, Liu, van der Maaten, Weinberger, Densely connected convolutional networks, CVPR 2017. Iandola et al.,
SqueezeNet, 2016; here with a batch norm behind every stage, so that it trains within a few epochs.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from examples.networks import Fire

GROWTH = 24
LAYERS = (2, 4, 6)
STEM = 32
FIRES = ((8, 32), (16, 64), (16, 64))
"""(squeezed, expanded) of each fire module; the first works on 14x14 maps, the others on 7x7."""


class DenseLayer(nn.Module):
    """Batch norm, ReLU, and a 3x3 convolution, whose maps are appended to the input's."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.conv(self.norm(x).relu_())), dim=1)


def teacher() -> nn.Sequential:
    """Dense blocks on 14x14, 7x7 and 3x3 maps, whose channels transitions between them halve; untrained.

    Input (N, 1, 28, 28), output logits (N, 10).
    """
    layers: list[nn.Module] = [nn.Conv2d(1, STEM, 3, padding=1, bias=False), nn.MaxPool2d(2)]
    channels = STEM
    for block, count in enumerate(LAYERS):
        if block:
            layers += [*_norm(channels), nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
            channels //= 2
        for _ in range(count):
            layers.append(DenseLayer(channels, GROWTH))
            channels += GROWTH
    return nn.Sequential(*layers, *_norm(channels), *_classifier(channels))


def student() -> nn.Sequential:
    """A convolution of stride 2, then fire modules on 14x14 and 7x7 maps; untrained.

    Input (N, 1, 28, 28), output logits (N, 10).
    """
    layers: list[nn.Module] = [nn.Conv2d(1, STEM, 3, stride=2, padding=1, bias=False), *_norm(STEM)]
    widths = (STEM, *(2 * expanded for _, expanded in FIRES))
    for (inputs, outputs), fire in zip(pairwise(widths), FIRES, strict=True):
        layers += [Fire(inputs, *fire), nn.BatchNorm2d(outputs)]
        if inputs == STEM:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, *_classifier(widths[-1]))


def _norm(channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]


def _classifier(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]
