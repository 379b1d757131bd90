"""Small networks with what occurs in real ones, and batch norms whose statistics are not those of a start."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Convolution and batch norm twice, added to the input; ReLU by a module that is called twice."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        y += x
        return self.relu(y)


class Residual(nn.Module):
    """A residual network: stem, padded max pool, two blocks, global average, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.blocks = nn.Sequential(Block(8), Block(8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.pool(self.stem(x)))
        x = F.adaptive_avg_pool2d(x, 1)
        return self.head(x.view(x.size(0), -1))


class Branches(nn.Module):
    """Fire modules in functional style, one conv called twice, concatenation, mean."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.left, self.right = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 3, padding=1)
        self.last = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.stem(x).relu_(), 2, ceil_mode=True)
        for _ in range(2):
            x = torch.cat((self.left(x).relu_(), self.right(x)), dim=1)
        return self.last(F.relu(x)).relu_().mean(dim=(2, 3))


class Mobile(nn.Module):
    """Inverted residuals with ReLU6, depthwise convolutions, dropout, a windowed average."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(3, 12, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU6())
        self.depthwise = nn.Sequential(
            nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False), nn.BatchNorm2d(12), nn.ReLU6()
        )
        self.project = nn.Sequential(nn.Conv2d(12, 6, 1), nn.BatchNorm2d(6))
        self.again = nn.Conv2d(6, 6, 3, padding=2, dilation=2)
        self.head = nn.Sequential(
            nn.AvgPool2d(3, stride=2, padding=1), nn.Flatten(), nn.Dropout(0.5), nn.LazyLinear(5)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.project(self.depthwise(self.expand(x)))
        return self.head(x + self.again(x))


class Gated(nn.Module):
    """A squeeze-and-excitation gate: a product and a sigmoid in float32 between int8 layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x * self.gate(F.adaptive_avg_pool2d(x, 1)).sigmoid() + x)
        return self.last(F.max_pool2d(x, 2)).flatten(1)


NETWORKS: list[Callable[[], nn.Module]] = [Residual, Branches, Mobile, Gated]


def trained(make: Callable[[], nn.Module], size: int = 17) -> tuple[nn.Module, Tensor]:
    """A network in eval mode whose batch norms have seen something, and images (6, 3, size, size) for it."""
    network = make()
    x = torch.randn(6, 3, size, size)
    network(x)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(-0.5, 1.5)
                module.bias.normal_(0, 0.3)
        for _ in range(3):
            network(torch.randn(6, 3, size, size))
    return network.eval(), x
