"""Pruned convolutions become column-sparse layers that compute the same."""

from typing import Any

import pytest
import torch
from torch import nn

from cnnkern import ColumnSparseConv2d, pruning, reference


@pytest.mark.parametrize("density", [0.0, 0.02, 0.3, 0.9])
@pytest.mark.parametrize(
    "arguments",
    [{"padding": 1}, {"groups": 2, "stride": 2}, {"groups": 4, "bias": False}, {"dilation": 2, "padding": 2}],
    ids=str,
)
def test_a_converted_layer_computes_what_the_masked_one_does(
    arguments: dict[str, Any], density: float
) -> None:
    conv = nn.Conv2d(4, 8, 3, **arguments).eval()
    pruning.prune(conv, density)
    layer = pruning.convert(conv)
    assert isinstance(layer, ColumnSparseConv2d)
    assert layer.weight.shape[1] == max(round(density * layer.total_columns), density > 0)
    assert torch.equal(layer.to_conv().weight, conv.weight)
    x = torch.randn(2, 4, 9, 8)
    options = {name: getattr(conv, name) for name in ("stride", "padding", "dilation", "groups")}
    with torch.no_grad():
        reference.assert_within_bound(
            layer(x), reference.column_sparse_conv2d, x, layer.weight, layer.columns, layer.bias,
            kernel_size=3, **options,
        )  # fmt: skip
        reference.assert_within_bound(layer(x), reference.conv2d, x, conv.weight, conv.bias, **options)


def test_the_rest_of_the_model_is_copied() -> None:
    shared = nn.Conv2d(4, 4, 3, padding=1)
    model = nn.ModuleDict({"stem": nn.Conv2d(3, 4, 3), "body": nn.Sequential(shared, nn.ReLU(), shared)})
    model["body"].eval()
    pruning.prune(model, 0.5, layers=["body.0"])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    converted = pruning.convert(model)
    assert type(converted["stem"]) is nn.Conv2d
    assert converted["stem"] is not model["stem"]
    assert isinstance(converted["body"][0], ColumnSparseConv2d)
    assert converted["body"][2] is converted["body"][0]
    assert (converted["stem"].training, converted["body"][0].training) == (True, False)
    assert type(model["body"][0]) is nn.Conv2d
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_zeros_of_any_origin_count() -> None:
    conv = nn.Conv2d(2, 4, 3)
    pruning.proximal_step(conv, pruning.column_norms(conv.weight).median().item())
    loaded = nn.Conv2d(2, 4, 3)
    loaded.load_state_dict(conv.state_dict())
    assert torch.equal(pruning.convert(loaded).to_conv().weight, conv.weight)
    assert pruning.convert(loaded).weight.shape == (4, 9)


def test_groups_keep_equally_many_columns() -> None:
    conv = nn.Conv2d(4, 4, 1, groups=2)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[0.0, 1], [0, 1], [0, 0], [0, 0]]).view(4, 2, 1, 1))
    assert pruning.kept_columns(conv).tolist() == [[1], [0]]
    assert torch.equal(pruning.convert(conv).to_conv().weight, conv.weight)


def test_what_may_compute_something_else_is_left_alone() -> None:
    class Doubled(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    model = nn.Sequential(Doubled(2, 4, 3), nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 2, 3)))
    pruning.prune(model, 0.5, layers=["0"])
    converted = pruning.convert(model)
    x = torch.randn(1, 2, 7, 7)
    assert torch.equal(converted(x), model(x))


def test_a_converted_model_trains_on() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).double()
    pruning.prune(model, 0.4)
    converted = pruning.convert(model)
    x = torch.randn(2, 2, 7, 7, dtype=torch.float64)
    for each in (model, converted):
        each(x).square().sum().backward()
    for conv, layer in zip(model[::2], converted[::2], strict=True):
        expected = conv.weight.grad.flatten(1)[:, layer.columns]
        torch.testing.assert_close(layer.weight.grad, expected)
