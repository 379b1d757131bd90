"""Dense against sparse by density: ``python -m bench.experiments.density``.

A 3x3 convolution at densities from 0.01 to 1: as a product of its patch matrix with an unstructured sparse
weight (scipy's CSC, torch's CSR), as the same product with a dense weight, as a dense convolution, and
column-sparse. The products get their patch matrix for nothing: what making it takes is timed beside them.
Writes a picture and the numbers as JSON.
"""

import argparse
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import scipy.sparse
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from bench.contests import our_calls, stock_calls
from bench.experiments.density_picture import draw
from bench.report import REPORT_WIDTH
from bench.results import RESULTS, environment, machine_slug, pool
from bench.timing import Call, Contender, check, interleave, thread_count
from cnnkern import ColumnSparseConv2d, Im2colConv2d, ops
from cnnkern.reference import conv2d, error_bound
from examples.files import write_json

DENSITIES = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0)
KERNEL, PADDING = (3, 3), 1
RIVAL = "torch convolution"


@dataclass(frozen=True)
class Settings:
    """`seconds` is what the rounds of one density take; channels in and out, maps of size x size."""

    densities: tuple[float, ...] = DENSITIES
    threads: tuple[int, ...] = tuple(sorted({1, torch.get_num_threads()}))
    channels: int = 64
    size: int = 64
    seconds: float = 2.0


@dataclass(frozen=True)
class Point:
    """One density: median seconds of a call of each contender, in its fastest layout, and the largest
    relative median deviation among them."""

    threads: int
    density: float
    seconds: dict[str, float]
    spread: float


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    settings = Settings(
        tuple(sorted(options.densities)),
        tuple(options.threads),
        options.channels,
        options.size,
        options.seconds,
    )
    points = measure(settings)
    document = {
        "environment": environment(),
        "settings": asdict(settings),
        "points": [asdict(point) for point in points],
        "wins_from": {str(threads): wins_from(points, threads) for threads in settings.threads},
    }
    console = Console()
    console.width = max(console.width, REPORT_WIDTH)
    for threads in settings.threads:
        console.print(_table(points, threads))
    stem = f"density-{machine_slug()}"
    write_json(options.output / f"{stem}.json", document)
    draw(options.output / f"{stem}.png", document)


def measure(settings: Settings) -> list[Point]:
    """Every density on every number of threads; the dense contenders take part in the rounds of each."""
    points = []
    for threads in settings.threads:
        with thread_count(threads):
            points += [_measure(settings, threads, density) for density in settings.densities]
    return points


def _measure(settings: Settings, threads: int, density: float) -> Point:
    contenders = contest(settings.channels, settings.size, density)
    with torch.inference_mode():
        timings, _ = interleave(contenders, seconds=settings.seconds)
    seconds: dict[str, float] = {}
    for contender, timing in zip(contenders, timings, strict=True):
        name = contender.name.split("/")[0]
        seconds[name] = min(timing.median, seconds.get(name, timing.median))
    return Point(threads, density, seconds, max(timing.deviation / timing.median for timing in timings))


def contest(channels: int, size: int, density: float) -> list[Contender]:
    """The contenders, shown to be right, named maker or maker/layout."""
    torch.manual_seed(0)
    x = torch.randn(1, channels, size, size)
    conv = nn.Conv2d(channels, channels, KERNEL, padding=PADDING, bias=False).eval().requires_grad_(False)
    weight = conv.weight.flatten(1)
    kept = max(1, round(density * weight.shape[1]))
    columns = torch.rand(weight.shape[1]).topk(kept).indices.sort().values
    pruned = ColumnSparseConv2d.from_conv(conv, columns=columns).eval()
    unstructured = weight * _random_mask(weight, density)

    dense = [
        *_named("torch convolution", stock_calls(conv, x)),
        *_named("cnnkern convolution", our_calls(Im2colConv2d.from_conv(conv).eval(), x)),
    ]
    patches = ops.im2col(x, KERNEL, padding=PADDING)[0]
    products = [Call("dense product", partial(torch.mm, weight, patches))]
    sparse = _sparse_products(unstructured, patches)
    column_sparse = _named("column-sparse", our_calls(pruned, x))
    with torch.inference_mode():
        for contenders, meant in (
            (dense, weight),
            (products, weight),
            (sparse, unstructured),
            (column_sparse, pruned.to_conv().weight.detach().flatten(1)),
        ):
            _check(contenders, x, meant)
    lowering = Call("lowering", partial(ops.im2col, x, KERNEL, padding=PADDING))
    return [*dense, *products, *sparse, *column_sparse, lowering]


def _named(name: str, calls: Sequence[Contender]) -> list[Contender]:
    return [Call(f"{name}/{call.name.split('/')[1]}", call.run) for call in calls]


def _sparse_products(weight: Tensor, patches: Tensor) -> list[Contender]:
    """The patch matrix times the weight, (pixels, columns) x (columns, K), in the order of memory that each
    library multiplies without a copy."""
    csc = scipy.sparse.csc_array(weight.T.numpy())
    pixels = patches.T.numpy()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR", UserWarning)
        csr = weight.to_sparse_csr()
    return [
        Call("scipy CSC", lambda: torch.from_numpy((pixels @ csc).T)),
        Call("torch CSR", lambda: csr @ patches),
    ]


def _random_mask(weight: Tensor, density: float) -> Tensor:
    """As many ones as a column-sparse weight of this density has, anywhere."""
    kept = max(1, round(density * weight.shape[1])) * weight.shape[0]
    mask = torch.zeros(weight.numel())
    mask[torch.rand(weight.numel()).topk(kept).indices] = 1
    return mask.view_as(weight)


def _check(contenders: Sequence[Contender], x: Tensor, weight: Tensor) -> None:
    """`weight` (K, columns) is what they stand for; products give (K, pixels), the others (1, K, oH, oW)."""
    weight = weight.unflatten(1, (x.shape[1], *KERNEL))
    expected = conv2d(x.double(), weight.double(), padding=PADDING)
    bound = error_bound(conv2d, x, weight, padding=PADDING)
    for contender in contenders:
        shape = contender.output().shape
        check(contender, expected.reshape(shape), bound.reshape(shape))


def wins_from(points: Sequence[Point], threads: int) -> dict[str, float | None]:
    """For each sparse contender the largest density from which on down it is faster than torch's convolution
    at every density that was measured; None where it never is."""
    found: dict[str, float | None] = {"scipy CSC": None, "torch CSR": None, "column-sparse": None}
    losing = set()
    for point in sorted((p for p in points if p.threads == threads), key=lambda p: p.density):
        for name in found:
            if point.seconds[name] >= point.seconds[RIVAL]:
                losing.add(name)
            elif name not in losing:
                found[name] = point.density
    return found


def _table(points: Sequence[Point], threads: int) -> Table:
    table = Table(title=f"Milliseconds on {pool(threads)}", title_justify="left")
    own = [point for point in points if point.threads == threads]
    for heading in ("density", *own[0].seconds):
        table.add_column(heading, justify="right")
    for point in own:
        table.add_row(f"{point.density:g}", *(f"{1e3 * seconds:.3f}" for seconds in point.seconds.values()))
    best = ", ".join(
        f"{name}: {'never' if density is None else f'{density:g}'}"
        for name, density in wins_from(points, threads).items()
    )
    table.caption = f"faster than the torch convolution from this density on down: {best}"
    return table


def _parser() -> argparse.ArgumentParser:
    default = Settings()
    parser = argparse.ArgumentParser(
        prog="python -m bench.experiments.density", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--densities", nargs="+", type=float, default=default.densities, metavar="P")
    parser.add_argument("--threads", nargs="+", type=int, default=default.threads, metavar="T")
    parser.add_argument("--channels", type=int, default=default.channels)
    parser.add_argument("--size", type=int, default=default.size, help="height and width of the maps")
    parser.add_argument("--seconds", type=float, default=default.seconds, help="time of one density")
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="DIR")
    return parser


if __name__ == "__main__":
    main()
