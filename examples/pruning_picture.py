"""The pictures of ``examples.pruning``: which entries of the filters were left."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from cnnkern.compression.files import written_whole
from examples.picture import STYLE


def draw(path: Path, network: nn.Module, kept: Mapping[float, tuple[float, Mapping[str, list[int]]]]) -> None:
    """Writes the learned masks to ``path``, whole or not at all: for each layer how many channels keep each
    entry of the kernel, and the entries that each channel keeps.

    ``kept``: {density: (accuracy, {layer: indices of its kept columns})}.
    """
    names = list(next(iter(kept.values()))[1])
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(3.4 * len(kept), 11), layout="constrained")
        grid = figure.subplots(2 * len(names), len(kept), squeeze=False)
        for place, (density, (accuracy, columns)) in enumerate(kept.items()):
            for row, name in enumerate(names):
                conv = network.get_submodule(name)
                mask = torch.zeros(conv.in_channels, *conv.kernel_size)
                mask.view(-1)[columns[name]] = 1
                share, channels = grid[2 * row][place], grid[2 * row + 1][place]
                share.set_title(f"{name}, density {density:g}: {accuracy:.1%} accurate")
                _heat_map(share, mask)
                _channel_masks(channels, mask)
        figure.suptitle(
            "Filter masks learned by the group lasso: channels that keep an entry; each channel's"
        )
        with written_whole(path) as temporary:
            figure.savefig(temporary, dpi=150)


def _heat_map(axes: Axes, kept: Tensor) -> None:
    share = kept.mean(dim=0)
    axes.imshow(share.numpy(), vmin=0, vmax=1, cmap="viridis")
    for (i, j), value in zip(
        torch.cartesian_prod(*map(torch.arange, share.shape)), share.view(-1), strict=True
    ):
        axes.text(j, i, f"{value:.0%}", ha="center", va="center", color="white" if value < 0.6 else "black")
    axes.set_axis_off()


def _channel_masks(axes: Axes, kept: Tensor) -> None:
    """The masks (C, kH, kW) as tiles, eight in a row at most, with a grey line between them."""
    tiles = nn.functional.pad(kept, (0, 1, 0, 1), value=0.5)
    across = min(8, len(tiles))
    missing = -len(tiles) % across
    tiles = torch.cat((tiles, torch.full((missing, *tiles.shape[1:]), 0.5)))
    rows = [torch.cat(list(some), dim=1) for some in tiles.split(across)]
    axes.imshow(torch.cat(rows).numpy(), vmin=0, vmax=1, cmap="gray")
    axes.set_axis_off()
