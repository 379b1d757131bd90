"""Small models for the tests of compression."""

import torch
from torch import Tensor, nn


class Branches(nn.Module):
    """A convolution that is called twice, a functional step, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.twice = nn.Conv2d(16, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.linear = nn.Linear(16, 5)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        x = self.norm(self.first(x)).relu()
        x = self.twice(self.twice(x)) * scale
        return self.linear(x.mean(dim=(2, 3)))


def chain() -> nn.Sequential:
    """Convolutions that have something to gain: input (N, 3, 20, 20), output (N, 7)."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 48, 5, padding=2),
        nn.ReLU(),
        nn.Conv2d(48, 32, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 7),
    ).eval()
