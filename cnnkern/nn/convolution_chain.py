"""Convolutions in a row that stand in the place of one, such as those of a factorized weight."""

from torch import nn


class ConvolutionChain(nn.Sequential):
    """Convolutions, `torch.nn.Conv2d` or layers of ours, each on the output of the one before."""

    @property
    def in_channels(self) -> int:
        """Of the first."""
        return self[0].in_channels

    @property
    def out_channels(self) -> int:
        """Of the last."""
        return self[-1].out_channels
