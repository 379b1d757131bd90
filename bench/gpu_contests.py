"""What `make gpu` times: our layers on CUDA against cuDNN, over the layer table."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor, nn

from bench.graph_timing import CapturedCall, interleave
from bench.layers import LAYERS, Layer, Workload, cp_work, dense_work
from cnnkern import CPConv2d, Im2colConv2d, reference

BATCHES = (1, 16, 64)
ROUNDS = 15
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
# name of an arithmetic: dtype, whether TF32 is allowed, relative spacing of what goes into products
ARITHMETICS = {
    "bfloat16": (torch.bfloat16, False, torch.finfo(torch.bfloat16).eps),
    "tf32": (torch.float32, True, 2.0**-10),
    "float32": (torch.float32, False, 0.0),
    "float16": (torch.float16, False, torch.finfo(torch.float16).eps),
}
FIRST_ARITHMETICS = ("bfloat16", "tf32")  # of all batches; the others of batch 16


@dataclass(frozen=True)
class Contest:
    """A layer of the table: dense, or of CP rank `rank`, in one arithmetic."""

    layer: Layer
    rank: int | None
    batch: int
    arithmetic: str

    @property
    def key(self) -> str:
        kind = "dense" if self.rank is None else f"R={self.rank}"
        return f"{self.layer.name}, {kind}, batch {self.batch}, {self.arithmetic}"

    @property
    def work(self) -> Workload:
        if self.rank is None:
            return dense_work(self.layer, self.batch)
        return cp_work(self.layer, self.rank, self.batch)

    def run(self, flush: Tensor) -> dict:
        """Seconds of every contender, and what they computed; raises AssertionError where ours is wrong."""
        dtype, tf32, eps = ARITHMETICS[self.arithmetic]
        torch.backends.cudnn.conv.fp32_precision = "tf32" if tf32 else "ieee"
        torch.backends.cudnn.benchmark = True
        ours, stock, dense = self._layers(dtype)
        x = torch.randn(self.batch, self.layer.C, self.layer.H, self.layer.W, device="cuda", dtype=dtype)
        calls = []
        with torch.no_grad():
            for name, memory_format in LAYOUTS.items():
                image = x.contiguous(memory_format=memory_format)
                self._check(ours, image, eps)
                modules = {"cnnkern": ours, "cudnn": stock} | ({"cudnn dense": dense} if dense else {})
                for who, module in modules.items():
                    laid_out = (
                        module if who == "cnnkern" else deepcopy(module).to(memory_format=memory_format)
                    )
                    calls.append(CapturedCall.of(f"{who}/{name}", partial(laid_out, image)))
            timings = interleave(calls, ROUNDS, flush)
        return {"work": asdict(self.work), "seconds": {name: t.median for name, t in timings.items()}}

    def _layers(self, dtype: torch.dtype) -> tuple[nn.Module, nn.Module, nn.Module | None]:
        """Ours, what stock PyTorch has in its place, and the dense layer that a CP one approximates."""
        layer = self.layer
        where = {"device": "cuda", "dtype": dtype}
        shape = (layer.C, layer.K, layer.kernel, layer.stride, layer.padding)
        dense = nn.Conv2d(*shape, **where).eval()
        if self.rank is None:
            return Im2colConv2d.from_conv(dense).eval(), dense, None
        ours = CPConv2d(*shape, rank=self.rank, **where).eval()
        return ours, ours.to_stock().eval(), dense

    def _check(self, ours: nn.Module, image: Tensor, eps: float) -> None:
        operation: Callable[..., Tensor] = reference.conv2d
        weights = [ours.weight] if self.rank is None else []
        if self.rank is not None:
            operation = reference.cp_conv2d
            weights = [ours.factor_c, ours.factor_h, ours.factor_w, ours.factor_k]
        options = {"stride": ours.stride, "padding": ours.padding}
        arguments = (image[:1], *weights, ours.bias)
        reference.assert_within_mixed_bound(ours(image)[:1], operation, eps, *arguments, **options)


def all_contests() -> Iterator[Contest]:
    """The most telling first: where the time does not suffice, the end of the list is what is missing."""
    for arithmetic in ARITHMETICS:
        for batch in BATCHES if arithmetic in FIRST_ARITHMETICS else BATCHES[1:2]:
            for layer in LAYERS:
                for rank in (*layer.ranks, None):
                    yield Contest(layer, rank, batch, arithmetic)
