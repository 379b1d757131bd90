"""Ways to compute the same dense layer: ``python -m bench.experiments.kernel_sizes``.

A convolution with kernels from 3x3 to 15x15, padded to keep its map: by our lowering, by the backend's own
choice (oneDNN, which has Winograd's algorithm for 3x3 at its disposal), by ATen's lowering without oneDNN, by
patches and a matrix product in plain torch, and by FFT, whose cost hardly depends on the kernel. All are
exact but for rounding; each is timed in its faster layout. The weight's transform is made beforehand.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from rich.table import Table
from scipy.fft import next_fast_len
from torch import Tensor, nn

from bench.contests import our_calls, stock_calls
from bench.experiments.record import record, table_of
from bench.results import RESULTS, pool
from bench.timing import Call, Contender, check, interleave, thread_count
from cnnkern import Im2colConv2d
from cnnkern.reference import conv2d, error_bound
from examples.picture import PALETTE

KERNELS = (3, 5, 7, 9, 11, 13, 15)
WAYS = ("cnnkern", "oneDNN", "ATen", "patches and product", "FFT")


@dataclass(frozen=True)
class Settings:
    """`seconds` is what the rounds of one kernel size take; channels in and out, maps of size x size."""

    kernels: tuple[int, ...] = KERNELS
    channels: int = 64
    size: int = 32
    batch: int = 1
    threads: tuple[int, ...] = tuple(sorted({1, torch.get_num_threads()}))
    seconds: float = 3.0


@dataclass(frozen=True)
class Point:
    """Seconds of a call of each way, in its fastest layout."""

    threads: int
    kernel: int
    flops: int
    seconds: dict[str, float]

    @property
    def winner(self) -> str:
        return min(self.seconds, key=self.seconds.get)


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    settings = Settings(
        tuple(sorted(options.kernels)), options.channels, options.size, options.batch, tuple(options.threads),
        options.seconds,
    )  # fmt: skip
    points = measure(settings)
    document = {
        "settings": asdict(settings),
        "points": [{**asdict(point), "winner": point.winner} for point in points],
    }
    tables = [_table(points, threads) for threads in settings.threads]
    size = (5.6 * len(settings.threads), 4.6)
    record("kernel-sizes", options.output, document, tables, _draw, size, max(settings.threads))


def measure(settings: Settings) -> list[Point]:
    points = []
    for threads in settings.threads:
        with thread_count(threads):
            points += [_measure(settings, threads, kernel) for kernel in settings.kernels]
    return points


def _measure(settings: Settings, threads: int, kernel: int) -> Point:
    contenders = contest(settings.channels, settings.size, settings.batch, kernel)
    with torch.inference_mode():
        timings, _ = interleave(contenders, seconds=settings.seconds)
    seconds: dict[str, float] = {}
    for contender, timing in zip(contenders, timings, strict=True):
        name = contender.name.split("/")[0]
        seconds[name] = min(timing.median, seconds.get(name, timing.median))
    flops = 2 * settings.batch * (settings.channels * settings.size * kernel) ** 2
    return Point(threads, kernel, flops, seconds)


def contest(channels: int, size: int, batch: int, kernel: int) -> list[Contender]:
    """The contenders, shown to be right, named way or way/layout."""
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False).eval().requires_grad_(False)
    x = torch.randn(batch, channels, size, size)
    contenders = [
        *_named("cnnkern", our_calls(Im2colConv2d.from_conv(conv).eval(), x)),
        *_named("oneDNN", stock_calls(conv, x)),
        *(Call(call.name, _without_onednn(call.run)) for call in _named("ATen", stock_calls(conv, x))),
        Call("patches and product", partial(_by_patches, x, conv.weight)),
        Call("FFT", _by_fft(x, conv.weight)),
    ]
    expected = conv2d(x.double(), conv.weight.double(), padding=kernel // 2)
    bound = error_bound(conv2d, x, conv.weight, padding=kernel // 2)
    with torch.inference_mode():
        for contender in contenders:
            check(contender, expected, bound)
    return contenders


def _named(name: str, calls: list[Contender]) -> list[Call]:
    return [Call(f"{name}/{call.name.split('/')[1]}", call.run) for call in calls]


def _without_onednn(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def call() -> Tensor:
        with torch.backends.mkldnn.flags(enabled=False):
            return run()

    return call


def _by_patches(x: Tensor, weight: Tensor) -> Tensor:
    patches = F.unfold(x, weight.shape[2:], padding=weight.shape[2] // 2)
    return (weight.flatten(1) @ patches).view(*x.shape[:1], len(weight), *x.shape[2:])


def _by_fft(x: Tensor, weight: Tensor) -> Callable[[], Tensor]:
    """A convolution of circles large enough that the padding keeps its ends apart."""
    size, reach = x.shape[2:], weight.shape[2] // 2
    lengths = [next_fast_len(length + reach, real=True) for length in size]
    # moved so that the middle tap is the first; the conjugate makes of a convolution a cross-correlation
    padded = F.pad(weight, (0, lengths[1] - weight.shape[3], 0, lengths[0] - weight.shape[2]))
    transformed = (
        torch.fft.rfft2(padded.roll((-reach, -reach), (2, 3))).conj().permute(2, 3, 0, 1).contiguous()
    )

    def call() -> Tensor:
        spectrum = torch.fft.rfft2(x, lengths).permute(2, 3, 1, 0)
        product = torch.matmul(transformed, spectrum).permute(3, 2, 0, 1)
        return torch.fft.irfft2(product, lengths)[..., : size[0], : size[1]]

    return call


def _table(points: list[Point], threads: int) -> Table:
    rows = [
        [
            f"{point.kernel}x{point.kernel}",
            *(f"{1e3 * point.seconds[way]:.3f}" for way in WAYS),
            f"{point.flops / point.seconds['cnnkern'] / 1e9:.0f}",
            point.winner,
        ]
        for point in points
        if point.threads == threads
    ]
    headings = ["kernel", *(f"ms {way}" for way in WAYS), "GFLOP/s ours", "fastest"]
    return table_of(f"Ways to compute the same layer, {pool(threads)}", headings, rows)


def _draw(figure: Figure, document: dict) -> None:
    settings = document["settings"]
    panels = figure.subplots(1, len(settings["threads"]), sharey=True, squeeze=False)[0]
    for axes, threads in zip(panels, settings["threads"], strict=True):
        own = [point for point in document["points"] if point["threads"] == threads]
        for way, colour in zip(WAYS, PALETTE, strict=False):
            times = [1e3 * point["seconds"][way] for point in own]
            axes.plot([point["kernel"] for point in own], times, "o-", color=colour, label=way)
        axes.set(title=f"{pool(threads)}", xlabel="kernel size", yscale="log")
        axes.set_xticks([point["kernel"] for point in own])
    panels[0].set_ylabel("milliseconds")
    panels[0].legend()
    channels, size = settings["channels"], settings["size"]
    figure.suptitle(
        f"{channels} to {channels} channels on {size}x{size} maps, batch {settings['batch']}  ·  "
        f"{document['environment']['cpu']}",
        fontsize=10,
    )


def _parser() -> argparse.ArgumentParser:
    default = Settings()
    parser = argparse.ArgumentParser(
        prog="python -m bench.experiments.kernel_sizes", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--kernels", nargs="+", type=int, default=default.kernels, metavar="K", help="odd")
    parser.add_argument("--channels", type=int, default=default.channels)
    parser.add_argument("--size", type=int, default=default.size, help="height and width of the maps")
    parser.add_argument("--batch", type=int, default=default.batch)
    parser.add_argument("--threads", nargs="+", type=int, default=default.threads, metavar="T")
    parser.add_argument("--seconds", type=float, default=default.seconds, help="time of one kernel size")
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="DIR")
    return parser


if __name__ == "__main__":
    main()
