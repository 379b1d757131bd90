"""The networks of the examples: three for Fashion-MNIST, the first of which most experiments share, CharNet
and SqueezeNet 1.1."""

from collections import OrderedDict
from functools import reduce
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

CHECKPOINT = Path(__file__).parent / "checkpoints" / "fashion_mnist.safetensors"


def fashion_net() -> nn.Sequential:
    """Three blocks of convolution, batch norm, ReLU and 2x2 max pooling, then one linear layer; untrained.

    The convolutions ``conv1`` (5x5, 1->32), ``conv2`` (5x5, 32->64) and ``conv3`` (3x3, 64->128) keep
    the map's size and have no bias, since a batch norm follows. Input (N, 1, 28, 28), output logits (N, 10).
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for index, (inputs, outputs, size) in enumerate(((1, 32, 5), (32, 64, 5), (64, 128, 3)), start=1):
        layers[f"conv{index}"] = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
        layers[f"norm{index}"] = nn.BatchNorm2d(outputs)
        layers[f"relu{index}"] = nn.ReLU(inplace=True)
        layers[f"pool{index}"] = nn.MaxPool2d(2)
    layers["flatten"] = nn.Flatten()
    layers["linear"] = nn.Linear(128 * 3 * 3, 10)
    return nn.Sequential(layers)


def trained_fashion_net(path: Path = CHECKPOINT) -> nn.Sequential:
    """The Fashion-MNIST network with the weights of ``path``, in eval mode."""
    network = fashion_net()
    network.load_state_dict(load_file(path))
    return network.eval()


class DepthwiseBlock(nn.Module):
    """MobileNet's block (Howard et al. 2017): 3x3 depthwise, then 1x1, batch norm and ReLU after each.

    Where the shape stays, the input is added before the last ReLU.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs, bias=False)
        self.norm1 = nn.BatchNorm2d(inputs)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.pointwise(self.relu(self.norm1(self.depthwise(x)))))
        return self.relu(y + x if self.adds else y)


def depthwise_net() -> nn.Sequential:
    """A MobileNet for Fashion-MNIST: a 3x3 convolution 1->32, six depthwise-separable blocks up to 256
    channels, global average, one linear layer; untrained. Input (N, 1, 28, 28), output logits (N, 10)."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv"] = nn.Conv2d(1, 32, 3, padding=1, bias=False)
    layers["norm"] = nn.BatchNorm2d(32)
    layers["relu"] = nn.ReLU(inplace=True)
    for index, width in enumerate((64, 128, 256), start=1):
        layers[f"reduce{index}"] = DepthwiseBlock(width // 2, width, stride=2)
        layers[f"keep{index}"] = DepthwiseBlock(width, width)
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["linear"] = nn.Linear(256, 10)
    return nn.Sequential(layers)


def lenet() -> nn.Sequential:
    """LeNet in the form that pruning papers use: two 5x5 convolutions with 2x2 max pooling behind each, and
    two linear layers; untrained.

    ``conv1`` (1->20) and ``conv2`` (20->50) do not pad. Input (N, 1, 28, 28), output logits (N, 10).
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for index, (inputs, outputs) in enumerate(((1, 20), (20, 50)), start=1):
        layers[f"conv{index}"] = nn.Conv2d(inputs, outputs, 5)
        layers[f"pool{index}"] = nn.MaxPool2d(2)
    layers["flatten"] = nn.Flatten()
    layers["linear1"] = nn.Linear(50 * 4 * 4, 500)
    layers["relu"] = nn.ReLU(inplace=True)
    layers["linear2"] = nn.Linear(500, 10)
    return nn.Sequential(layers)


class Maxout(nn.Module):
    """The largest of ``pieces`` channels (Goodfellow et al. 2013): (N, K, H, W) to (N, K / pieces, H, W).

    Output k is made of the channels k, k + K / pieces, ...: whole blocks of the map in either layout.
    """

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        return reduce(torch.maximum, x.chunk(self.pieces, dim=1))

    def extra_repr(self) -> str:
        return f"pieces={self.pieces}"


def charnet(shrink: int = 1) -> nn.Sequential:
    """CharNet (Jaderberg, Vedaldi, Zisserman 2014): four convolutions without padding, a maxout after each;
    untrained.

    They are ``conv1`` (9x9, 1->96), ``conv2`` (9x9, 48->128), ``conv3`` (8x8, 64->512) and ``conv4`` (1x1,
    128->144), the maxouts over 2, 2, 4 and 4 channels. ``shrink`` divides the channels of the first three.
    Input (N, 1, 24, 24) of mean 0 and deviation 1, output logits (N, 36).
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    inputs = 1
    table = ((96 // shrink, 9, 2), (128 // shrink, 9, 2), (512 // shrink, 8, 4), (144, 1, 4))
    for index, (outputs, size, pieces) in enumerate(table, start=1):
        conv = nn.Conv2d(inputs, outputs, size)
        # Maxout keeps the second moment, of pairs at least: no factor of two as with ReLU.
        nn.init.kaiming_normal_(conv.weight, nonlinearity="linear")
        nn.init.zeros_(conv.bias)
        layers[f"conv{index}"] = conv
        layers[f"maxout{index}"] = Maxout(pieces)
        inputs = outputs // pieces
    layers["flatten"] = nn.Flatten()
    return nn.Sequential(layers)


class Fire(nn.Module):
    """SqueezeNet's block: 1x1 to few channels, then 1x1 and 3x3 side by side; ReLU after each."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze1x1 = nn.Conv2d(inputs, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze1x1(x).relu_()
        return torch.cat((self.expand1x1(x).relu_(), self.expand3x3(x).relu_()), dim=1)


class SqueezeNet(nn.Module):
    """SqueezeNet 1.1 (Iandola et al. 2016), 1000 classes; input (N, 3, 227, 227), output logits (N, 1000)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, stride=2)
        self.fire2, self.fire3 = Fire(64, 16, 64), Fire(128, 16, 64)
        self.fire4, self.fire5 = Fire(128, 32, 128), Fire(256, 32, 128)
        self.fire6, self.fire7 = Fire(256, 48, 192), Fire(384, 48, 192)
        self.fire8, self.fire9 = Fire(384, 64, 256), Fire(512, 64, 256)
        self.conv10 = nn.Conv2d(512, 1000, 1)
        self.pool = nn.MaxPool2d(3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.conv1(x).relu_())
        x = self.pool(self.fire3(self.fire2(x)))
        x = self.pool(self.fire5(self.fire4(x)))
        x = self.fire9(self.fire8(self.fire7(self.fire6(x))))
        return self.conv10(x).relu_().mean(dim=(2, 3))
