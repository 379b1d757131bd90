"""What a call costs around its kernel: a layer so small that its arithmetic takes about a microsecond."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from bench.layers import Layer, Workload, dense_work
from bench.timing import Call, Contender
from cnnkern import CPConv2d, Im2colConv2d, ops

TINY = Layer("tiny", 8, 8, (3, 3), 8, 8, padding=1, ranks=(8,))
NAMES = ("torch/F.conv2d", "cnnkern/ops.conv2d", "cnnkern/Im2colConv2d", "cnnkern/CPConv2d")
MODES = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}


def contenders() -> list[Contender]:
    """F.conv2d, the call to be no dearer than, and ours: the function and the two layers."""
    torch.manual_seed(0)
    conv = nn.Conv2d(TINY.C, TINY.K, TINY.kernel, padding=TINY.padding).eval()
    dense = Im2colConv2d.from_conv(conv).eval()
    cp = CPConv2d(TINY.C, TINY.K, TINY.kernel, padding=TINY.padding, rank=TINY.ranks[0]).eval()
    x, weight, bias = torch.randn(1, TINY.C, TINY.H, TINY.W), conv.weight.detach(), conv.bias.detach()
    calls = (
        lambda: F.conv2d(x, weight, bias, padding=TINY.padding),
        lambda: ops.conv2d(x, weight, bias, padding=TINY.padding),
        lambda: dense(x),
        lambda: cp(x),
    )
    return [Call(name, call) for name, call in zip(NAMES, calls, strict=True)]


def work(mode: str) -> Workload:
    """The row of one mode: its name stands where other suites name the layer."""
    return replace(dense_work(TINY, batch=1), suite="overhead", layer=mode)
