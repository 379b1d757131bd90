"""FLOPs and bytes are those of a count by hand, for stock layers and for ours."""

import pytest
import torch
from torch import nn

from cnnkern import ColumnSparseConv2d, CPConv2d, Im2colConv2d, PerforatedConv2d
from cnnkern.compression.cost import flops, traffic

X = torch.zeros(2, 4, 7, 6)
SHAPE = {"kernel_size": (3, 2), "stride": 2, "padding": 1, "groups": 2}  # to 4 × 4
OUT = 2 * 4 * 4  # positions of all images


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Conv2d(4, 6, **SHAPE), 2 * OUT * 6 * 2 * 6),
        (Im2colConv2d(4, 6, **SHAPE), 2 * OUT * 6 * 2 * 6),
        (ColumnSparseConv2d(4, 6, **SHAPE, columns=[[0, 5, 7], [1, 2, 3]]), 2 * OUT * 6 * 3),
        # 1×1, 3×1 and 1×2 depthwise of 8 components, 1×1
        (CPConv2d(4, 6, **SHAPE, rank=8), 2 * 2 * 8 * (2 * 42 + 3 * 4 * 6 + 2 * 16 + 3 * 16)),
        (PerforatedConv2d(4, 6, 2, stride=2, mask=torch.eye(3, dtype=torch.bool)), 2 * 2 * 3 * 6 * 16),
        # the kernel is set down once for each input position
        (nn.ConvTranspose2d(4, 6, 3, groups=2), 2 * 2 * 42 * 4 * 3 * 9),
        (nn.BatchNorm2d(4), 2 * X.numel()),
        (nn.ReLU(), 0),
        (nn.Linear(6, 5), 2 * 2 * 4 * 7 * 6 * 5),
    ],
    ids=lambda value: type(value).__name__,
)
def test_flops_are_those_of_the_loops(module: nn.Module, expected: int):
    assert flops(module, (X,), module.eval()(X)) == expected


def test_traffic_is_input_weights_and_output_once():
    conv = nn.Conv2d(4, 6, **SHAPE)
    assert traffic(conv, (X,), conv(X)) == 4 * (X.numel() + 6 * 2 * 6 + 6 + OUT * 6)


def test_a_layer_without_tensors_costs_nothing():
    assert flops(nn.Identity(), (3,), 3) == 0
