"""A contest: modules that compute the same thing, in every layout, and what they must agree with.

Everything is called through the public layers. Contenders are named maker/layout: torch/contiguous,
torch/channels_last, torch/channels_last_weights (the weights in that format too), cnnkern/contiguous,
cnnkern/channels_last.
"""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.layers import (
    DENSITIES,
    RATES,
    Layer,
    Workload,
    column_sparse_work,
    cp_work,
    dense_work,
    im2col_work,
    perforated_work,
    training_work,
)
from bench.timing import Call, Contender, check, end_to_end
from cnnkern import ColumnSparseConv2d, CPConv2d, Im2colConv2d, PerforatedConv2d, ops, perforation
from cnnkern.reference import column_sparse_conv2d, conv2d, cp_conv2d, error_bound, nearest_kept

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
STEPS = tuple(f"{maker}/{name}" for maker in ("torch", "cnnkern") for name in FORMATS)
FORWARD = (*STEPS, "torch/channels_last_weights")
COLUMN_SPARSE = tuple(f"cnnkern/{name}" for name in FORMATS)


@dataclass(frozen=True)
class Contest:
    """One row of the comparison.

    `reference` gives the expected output and the rounding allowed per element, float64; `stock` is torch's
    module and `x` the contiguous input, for rivals that run outside this process.
    """

    work: Workload
    contenders: list[Contender]
    reference: Callable[[], tuple[Tensor, Tensor]]
    stock: nn.Module
    x: Tensor

    def check(self) -> None:
        """Raise WrongResult unless every contender is right."""
        expected, bound = self.reference()
        with self.mode():
            for contender in self.contenders:
                check(contender, expected, bound)

    def mode(self) -> AbstractContextManager:
        """What contenders are called under. Contests are made outside it: a layer made in inference mode has
        weights without version counters, and cannot keep them packed."""
        return torch.inference_mode(self.work.suite != "training")


def dense(layer: Layer, batch: int) -> Contest:
    """nn.Conv2d against Im2colConv2d."""
    torch.manual_seed(0)
    conv = nn.Conv2d(layer.C, layer.K, layer.kernel, layer.stride, layer.padding).eval()
    x = torch.randn(batch, layer.C, layer.H, layer.W)
    reference = partial(
        _reference,
        conv2d,
        (x, conv.weight.detach(), conv.bias.detach()),
        stride=layer.stride,
        padding=layer.padding,
    )
    calls = [*stock_calls(conv, x), *our_calls(Im2colConv2d.from_conv(conv).eval(), x)]
    return Contest(dense_work(layer, batch), calls, reference, conv, x)


def cp(layer: Layer, rank: int, batch: int) -> Contest:
    """The four stock convolutions against CPConv2d."""
    ours = cp_module(layer, rank).eval()
    x = torch.randn(batch, layer.C, layer.H, layer.W)
    reference = partial(
        _reference,
        cp_conv2d,
        (x, *(parameter.detach() for parameter in cp_parameters(ours))),
        stride=layer.stride,
        padding=layer.padding,
    )
    stock = ours.to_stock().eval()
    calls = [*stock_calls(stock, x), *our_calls(ours, x)]
    return Contest(cp_work(layer, rank, batch), calls, reference, stock, x)


def column_sparse(layer: Layer, density: float, batch: int) -> Contest:
    """ColumnSparseConv2d with random columns. What it is compared with is in the dense contest: stock
    software computes a pruned layer as a dense one with zeros in it."""
    torch.manual_seed(0)
    columns = torch.rand(layer.columns).topk(layer.kept_columns(density)).indices.sort().values
    arguments = layer.C, layer.K, layer.kernel, layer.stride, layer.padding
    ours = ColumnSparseConv2d(*arguments, columns=columns).eval()
    x = torch.randn(batch, layer.C, layer.H, layer.W)
    reference = partial(
        _reference,
        column_sparse_conv2d,
        (x, ours.weight.detach(), ours.columns, ours.bias.detach()),
        kernel_size=layer.kernel,
        stride=layer.stride,
        padding=layer.padding,
    )
    work = column_sparse_work(layer, density, batch)
    return Contest(work, our_calls(ours, x), reference, ours.to_stock().eval(), x)


def column_sparse_contests(layer: Layer, batch: int) -> list[Contest]:
    """What is timed interleaved for one layer: the dense contest, and one for each density."""
    return [dense(layer, batch), *(column_sparse(layer, density, batch) for density in DENSITIES)]


def training(layer: Layer, rank: int, batch: int) -> Contest:
    """One step, forward and all gradients, of the four stock convolutions under autograd against CPConv2d."""
    ours = cp_module(layer, rank).train()
    stock = ours.to_stock().train()
    x = torch.randn(batch, layer.C, layer.H, layer.W)
    gradient = torch.randn(batch, layer.K, *layer.output_size)

    # the factors, forward and backward, then a sum over all pixels
    depth = layer.C + layer.K + rank + 2 * sum(layer.kernel) + batch * layer.H * layer.W
    reference = partial(_gradient_reference, stock, x, gradient, depth)
    calls = [
        Call(f"{who}/{name}", training_step(module, x, gradient, memory_format))
        for who, module in (("torch", stock), ("cnnkern", ours))
        for name, memory_format in FORMATS.items()
    ]
    return Contest(training_work(layer, rank, batch), calls, reference, stock, x)


def im2col(layer: Layer, batch: int) -> Contest:
    """F.unfold against ops.im2col, which copy and must agree exactly."""
    torch.manual_seed(0)
    x = torch.randn(batch, layer.C, layer.H, layer.W)
    options = {"stride": layer.stride, "padding": layer.padding}
    inputs = {name: x.contiguous(memory_format=memory_format) for name, memory_format in FORMATS.items()}
    calls = [
        Call(f"{who}/{name}", partial(function, x, layer.kernel, **options))
        for who, function in (("torch", F.unfold), ("cnnkern", ops.im2col))
        for name, x in inputs.items()
    ]
    stock = nn.Unfold(layer.kernel, **options)
    return Contest(im2col_work(layer, batch), calls, lambda: (stock(x), torch.zeros(())), stock, x)


def contests(layer: Layer, batch: int) -> list[Contest]:
    """What is timed interleaved for one layer: the dense contest, and a CP contest for each rank."""
    return [dense(layer, batch), *(cp(layer, rank, batch) for rank in layer.ranks)]


def perforated(layer: Layer, batch: int) -> list[Contest]:
    """The dense contest, then PerforatedConv2d against its stock form: at each rate with an irregular mask,
    and where every second row and column is kept, which stock convolution can do with a larger stride."""
    first = dense(layer, batch)
    dense_reference = cache(first.reference)
    masks = [(f"perforated {rate:g}", rate, perforation.uniform(layer.output_size, rate)) for rate in RATES]
    grid = torch.zeros(layer.output_size, dtype=torch.bool)
    grid[::2, ::2] = True
    masks.append(("perforated grid", 1 - grid.float().mean().item(), grid))
    return [first, *(_perforated(layer, batch, first, dense_reference, *mask) for mask in masks)]


def _perforated(
    layer: Layer,
    batch: int,
    dense: Contest,
    dense_reference: Callable[[], tuple[Tensor, Tensor]],
    suite: str,
    rate: float,
    mask: Tensor,
) -> Contest:
    ours = PerforatedConv2d.from_conv(dense.stock, mask).eval()
    stock = ours.to_stock()
    sources = nearest_kept(mask).flatten()

    def reference() -> tuple[Tensor, Tensor]:
        """What the dense layer has there, where it is shown, and its bound."""
        expected, bound = (t.flatten(2)[..., sources].unflatten(2, mask.shape) for t in dense_reference())
        return expected, bound

    calls = [*stock_calls(stock, dense.x), *our_calls(ours, dense.x)]
    work = perforated_work(suite, layer, rate, int(mask.sum()), batch)
    return Contest(work, calls, reference, stock, dense.x)


def stock_calls(module: nn.Module, x: Tensor) -> list[Contender]:
    """A stock module in the three layouts worth trying; the best of them is the rival."""
    module_last = copy.deepcopy(module).to(memory_format=torch.channels_last)
    x_last = x.contiguous(memory_format=torch.channels_last)
    return [
        Call("torch/contiguous", partial(module, x)),
        Call("torch/channels_last", partial(module, x_last)),
        Call("torch/channels_last_weights", partial(module_last, x_last)),
    ]


def our_calls(module: nn.Module, x: Tensor) -> list[Contender]:
    inputs = {name: x.contiguous(memory_format=memory_format) for name, memory_format in FORMATS.items()}
    return [Call(f"cnnkern/{name}", partial(module, x)) for name, x in inputs.items()]


def cp_module(layer: Layer, rank: int) -> nn.Module:
    torch.manual_seed(0)
    return CPConv2d(layer.C, layer.K, layer.kernel, layer.stride, layer.padding, rank=rank)


def cp_parameters(module: nn.Module) -> list[Tensor]:
    """In the order of the four stock convolutions' weights."""
    return [module.factor_c, module.factor_h, module.factor_w, module.factor_k, module.bias]


def training_step(
    module: nn.Module, x: Tensor, gradient: Tensor, memory_format: torch.memory_format
) -> Callable[[], tuple[Tensor, ...]]:
    """A function that runs `module` forward and returns the gradients of its input and of its parameters."""
    x = x.detach().contiguous(memory_format=memory_format).requires_grad_()
    gradient = gradient.contiguous(memory_format=memory_format)
    parameters = cp_parameters(module) if isinstance(module, CPConv2d) else list(module.parameters())
    return lambda: torch.autograd.grad(module(x), [x, *parameters], gradient)


def _reference(
    operation: Callable[..., Tensor], arguments: tuple[Tensor, ...], **options: object
) -> tuple[Tensor, Tensor]:
    exact = [argument.double() if argument.is_floating_point() else argument for argument in arguments]
    return operation(*exact, **options), error_bound(operation, *arguments, **options)


def _gradient_reference(stock: nn.Module, x: Tensor, gradient: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """All gradients in float64, and their bound: the same sums over magnitudes, `depth` terms at most."""
    double = copy.deepcopy(stock).double()
    names = [name for name, _ in double.named_parameters()]

    def gradients(x: Tensor, gradient: Tensor, *weights: Tensor) -> Tensor:
        inputs = [tensor.requires_grad_() for tensor in (x, *weights)]
        y = torch.func.functional_call(double, dict(zip(names, weights, strict=True)), x)
        return end_to_end(torch.autograd.grad(y, inputs, gradient))

    exact = [tensor.detach().double() for tensor in (x, gradient, *stock.parameters())]
    magnitudes = [tensor.abs() for tensor in exact]
    return gradients(*exact), 2 * depth * torch.finfo(x.dtype).eps * gradients(*magnitudes)
