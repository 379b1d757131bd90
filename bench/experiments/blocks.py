"""Time against operations: ``python -m bench.experiments.blocks``.

The blocks of known architectures on maps of the same size and channels: their operations, and what they take
with torch's convolutions, in its best layout, and with ours. Operations do not predict time: blocks of few
operations have depthwise and grouped convolutions, shuffles and concatenations, which move much and compute
little.
"""

import argparse
import copy
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from rich.table import Table
from scipy.stats import spearmanr
from torch import Tensor, nn

from bench.contests import FORMATS, our_calls, stock_calls
from bench.experiments.block_zoo import BLOCKS
from bench.experiments.record import record, table_of
from bench.results import RESULTS, pool
from bench.timing import check, interleave, thread_count
from cnnkern import Im2colConv2d
from cnnkern.compression.cost import flops
from cnnkern.compression.rewriting import replace
from cnnkern.compression.running import leaves
from examples.picture import GREY, PALETTE

EXPANSION = 8  # rounding in a block may be this many times that of its longest sum


@dataclass(frozen=True)
class Settings:
    """`seconds` is what the rounds of one block take; channels, and maps of size x size."""

    channels: tuple[int, ...] = (64, 128, 256)
    size: int = 28
    batch: int = 1
    threads: int = 1
    seconds: float = 1.0


@dataclass(frozen=True)
class Point:
    """One block: operations of a call, and the seconds of one, each side in its fastest layout."""

    block: str
    channels: int
    flops: int
    torch: float
    cnnkern: float


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    settings = Settings(
        tuple(sorted(options.channels)), options.size, options.batch, options.threads, options.seconds
    )
    points = measure(settings)
    document = {
        "settings": asdict(settings),
        "points": [asdict(point) for point in points],
        "rank_correlation": {who: correlation(points, who) for who in ("torch", "cnnkern")},
    }
    record("blocks", options.output, document, [_table(points, document)], _draw, (11, 4.6), settings.threads)


def measure(settings: Settings) -> list[Point]:
    with thread_count(settings.threads):
        return [_measure(name, C, settings) for C in settings.channels for name in BLOCKS]


@torch.no_grad()
def _measure(name: str, channels: int, settings: Settings) -> Point:
    torch.manual_seed(0)
    stock = BLOCKS[name](channels).eval()
    ours = with_our_layers(stock)
    x = torch.randn(settings.batch, channels, settings.size, settings.size)
    calls = [*stock_calls(stock, x), *our_calls(ours, x)]
    exact = copy.deepcopy(stock).double()(x.double())
    bound = EXPANSION * _longest_sum(stock) * torch.finfo(torch.float32).eps * exact.abs().max()
    for call in calls:
        check(call, exact, bound.expand_as(exact))
    timings, _ = interleave(calls, seconds=settings.seconds)
    times = [timing.median for timing in timings]
    theirs = len(FORMATS) + 1
    return Point(name, channels, operations(stock, x), min(times[:theirs]), min(times[theirs:]))


def with_our_layers(model: nn.Module) -> nn.Module:
    """A copy with all convolutions on our kernels."""
    model = copy.deepcopy(model)
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    return replace(model, {conv: Im2colConv2d.from_conv(conv).eval() for conv in convs})


def operations(model: nn.Module, x: Tensor) -> int:
    """FLOPs of a call, those of all its layers."""
    total = 0

    def count(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        nonlocal total
        total += flops(module, inputs, output)

    hooks = [module.register_forward_hook(count) for module in leaves(model).values()]
    model(x)
    for hook in hooks:
        hook.remove()
    return total


def correlation(points: list[Point], who: str) -> dict[str, float]:
    """Spearman's correlation of operations and time over the blocks, by the number of channels."""
    found = {}
    for channels in dict.fromkeys(point.channels for point in points):
        own = [point for point in points if point.channels == channels]
        found[str(channels)] = float(spearmanr([p.flops for p in own], [getattr(p, who) for p in own])[0])
    return found


def _longest_sum(model: nn.Module) -> int:
    return sum(module.weight[0].numel() for module in model.modules() if isinstance(module, nn.Conv2d))


def _table(points: list[Point], document: dict) -> Table:
    rows = [
        [
            point.block, str(point.channels), f"{point.flops / 1e6:.1f}", f"{1e3 * point.torch:.3f}",
            f"{1e3 * point.cnnkern:.3f}", f"{point.flops / point.torch / 1e9:.1f}",
            f"{point.flops / point.cnnkern / 1e9:.1f}", f"{point.torch / point.cnnkern:.2f}",
        ]
        for point in points
    ]  # fmt: skip
    headings = [
        "block",
        "C",
        "MFLOPs",
        "ms torch",
        "ms ours",
        "GFLOP/s torch",
        "GFLOP/s ours",
        "times faster",
    ]
    table = table_of("Time against operations", headings, rows)
    table.caption = "rank correlation of operations and time: " + "; ".join(
        f"{who} {', '.join(f'{value:.2f} at C={channels}' for channels, value in by_channels.items())}"
        for who, by_channels in document["rank_correlation"].items()
    )
    return table


def _draw(figure: Figure, document: dict) -> None:
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    most = max(document["settings"]["channels"])
    for axes, who, title in zip(panels, ("torch", "cnnkern"), ("torch, best layout", "cnnkern"), strict=True):
        for number, channels in enumerate(document["settings"]["channels"]):
            own = [point for point in document["points"] if point["channels"] == channels]
            axes.plot(
                [p["flops"] / 1e6 for p in own], [1e3 * p[who] for p in own], "o",
                color=PALETTE[number % len(PALETTE)], label=f"{channels} channels",
            )  # fmt: skip
            for point in own if channels == most else []:
                axes.annotate(point["block"], (point["flops"] / 1e6, 1e3 * point[who]), fontsize=6.5,
                              color=GREY, xytext=(3, 3), textcoords="offset points")  # fmt: skip
        axes.set(title=title, xlabel="million operations", xscale="log", yscale="log")
    panels[0].set_ylabel("milliseconds")
    panels[0].legend()
    settings = document["settings"]
    figure.suptitle(
        f"Blocks on {settings['size']}x{settings['size']} maps, batch {settings['batch']}, "
        f"{pool(settings['threads'])}  ·  {document['environment']['cpu']}",
        fontsize=10,
    )


def _parser() -> argparse.ArgumentParser:
    default = Settings()
    parser = argparse.ArgumentParser(
        prog="python -m bench.experiments.blocks", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--channels", nargs="+", type=int, default=default.channels, metavar="C")
    parser.add_argument("--size", type=int, default=default.size, help="height and width of the maps")
    parser.add_argument("--batch", type=int, default=default.batch)
    parser.add_argument("--threads", type=int, default=default.threads)
    parser.add_argument("--seconds", type=float, default=default.seconds, help="time of one block")
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="DIR")
    return parser


if __name__ == "__main__":
    main()
