"""The blocks of known architectures, on maps of C channels: each keeps the number of channels or doubles it.

Sizes inside a block are those of its paper, in proportion to C. Batch norms are left out: they fold away.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv(
    C: int, K: int, kernel: int | tuple[int, int] = 1, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """A convolution that keeps the size of the map (at stride 1), and a ReLU."""
    taps = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = tuple(each // 2 for each in taps)
    return nn.Sequential(nn.Conv2d(C, K, taps, stride, padding, groups=groups), nn.ReLU())


def depthwise(C: int, kernel: int | tuple[int, int] = 3) -> nn.Conv2d:
    taps = (kernel, kernel) if isinstance(kernel, int) else kernel
    return nn.Conv2d(C, C, taps, padding=tuple(each // 2 for each in taps), groups=C)


class Parallel(nn.Module):
    """The outputs of several branches on one input, which is what `before` makes of x, side by side."""

    def __init__(self, *branches: nn.Module, before: nn.Module | None = None) -> None:
        super().__init__()
        self.before = nn.Identity() if before is None else before
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class Residual(nn.Module):
    """x + branch(x)."""

    def __init__(self, *branch: nn.Module) -> None:
        super().__init__()
        self.branch = nn.Sequential(*branch)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.branch(x))


class Shuffle(nn.Module):
    """Channels of groups, dealt out to the groups behind."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        return F.channel_shuffle(x, self.groups)


class Shift(nn.Module):
    """Ninths of the channels, each moved by a pixel in another direction (Wu et al. 2018)."""

    def forward(self, x: Tensor) -> Tensor:
        parts, padded = [], F.pad(x, (1, 1, 1, 1))
        H, W = x.shape[-2:]
        for number, part in enumerate(padded.tensor_split(9, dim=1)):
            i, j = divmod(number, 3)
            parts.append(part[..., i : i + H, j : j + W])
        return torch.cat(parts, dim=1)


class Dense(nn.Module):
    """`layers` bottlenecks, each on all outputs before it (Huang et al. 2017)."""

    def __init__(self, C: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(conv(C + n * growth, 4 * growth), conv(4 * growth, growth, 3))
            for n in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], dim=1)
        return x


def _inception(C: int) -> nn.Module:
    q = C // 4
    return Parallel(
        conv(C, q),
        nn.Sequential(conv(C, q), conv(q, 2 * q, 3)),
        nn.Sequential(conv(C, q // 4), conv(q // 4, q // 2, 5)),
        nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(C, q // 2)),
    )


def _shufflenet(C: int) -> nn.Module:
    groups, q = 4, C // 4
    last = nn.Conv2d(q, C, 1, groups=groups)
    return Residual(conv(C, q, groups=groups), Shuffle(groups), depthwise(q), last)


def _effnet(C: int) -> nn.Module:
    """Without its pooling in one direction, so that the map keeps its size (Freeman et al. 2018)."""
    parts = conv(C, C // 2), depthwise(C // 2, (1, 3)), depthwise(C // 2, (3, 1)), conv(C // 2, C)
    return nn.Sequential(*parts)


BLOCKS: dict[str, Callable[[int], nn.Module]] = {
    "VGG 3x3": lambda C: conv(C, C, 3),
    "ResNet basic": lambda C: Residual(conv(C, C, 3), nn.Conv2d(C, C, 3, padding=1)),
    "ResNet bottleneck": lambda C: Residual(
        conv(C, C // 4), conv(C // 4, C // 4, 3), nn.Conv2d(C // 4, C, 1)
    ),
    "ResNeXt": lambda C: Residual(
        conv(C, C // 2), conv(C // 2, C // 2, 3, groups=C // 8), nn.Conv2d(C // 2, C, 1)
    ),
    "Inception": _inception,
    "SqueezeNet fire": lambda C: Parallel(
        conv(C // 8, C // 2), conv(C // 8, C // 2, 3), before=conv(C, C // 8)
    ),
    "DenseNet": lambda C: Dense(C, C // 8, 4),
    "MobileNet": lambda C: nn.Sequential(depthwise(C), nn.ReLU(), conv(C, C)),
    "MobileNetV2": lambda C: Residual(conv(C, 6 * C), depthwise(6 * C), nn.ReLU6(), nn.Conv2d(6 * C, C, 1)),
    "ShuffleNet": _shufflenet,
    "EffNet": _effnet,
    "ShiftNet": lambda C: Residual(conv(C, C), Shift(), nn.Conv2d(C, C, 1)),
}
