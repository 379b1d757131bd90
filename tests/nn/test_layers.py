"""The layers are drop-in replacements of torch.nn.Conv2d."""

from typing import Any

import pytest
import torch
from torch import nn

from cnnkern.nn import ColumnSparseConv2d, CPConv2d, Im2colConv2d, PerforatedConv2d
from tests.nn.layers import ARGUMENTS, LAYERS, Layer, assert_computes, build, image

FORMATS = [torch.contiguous_format, torch.channels_last]
by_kind = pytest.mark.parametrize("kind", LAYERS)


@by_kind
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=ARGUMENTS)
def test_computes_the_convolution_in_the_layout_of_the_input(
    kind: type[Layer], arguments: dict[str, Any], memory_format: torch.memory_format, training: bool
) -> None:
    layer = build(kind, **arguments).train(training)
    x = image(layer, memory_format)
    with torch.no_grad():
        y = layer(x)
    assert_computes(y, layer, x)
    assert y.is_contiguous(memory_format=memory_format)


@by_kind
@pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=ARGUMENTS)
def test_to_conv_and_to_stock_compute_the_same(kind: type[Layer], arguments: dict[str, Any]) -> None:
    layer = build(kind, **arguments).eval()
    x = image(layer)
    conv, stock = layer.to_conv(), layer.to_stock()
    assert type(conv) is nn.Conv2d
    assert not conv.training
    assert not stock.training
    with torch.no_grad():
        assert_computes(stock(x), layer, x)
        if kind in (Im2colConv2d, ColumnSparseConv2d):
            assert_computes(conv(x), layer, x)
        elif kind is PerforatedConv2d:
            assert torch.equal(conv.weight, layer.weight)
        else:
            weight = sum_of_components(layer)
            torch.testing.assert_close(conv.weight, weight.to(conv.weight.dtype))


def sum_of_components(layer: CPConv2d) -> torch.Tensor:
    """The weight, component by component."""
    weight = torch.zeros(layer.to_conv().weight.shape, dtype=torch.float64)
    c, h, w, k = (getattr(layer, f"factor_{axis}").detach().double() for axis in "chwk")
    outputs, ranks = layer.out_channels // layer.groups, layer.rank // layer.groups
    for group in range(layer.groups):
        for i in range(ranks):
            r, rows = group * ranks + i, slice(group * outputs, (group + 1) * outputs)
            weight[rows] += torch.einsum("k,c,i,j->kcij", k[rows, i], c[r], h[r], w[r])
    return weight


@by_kind
@pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=ARGUMENTS)
def test_has_the_attributes_of_conv2d(kind: type[Layer], arguments: dict[str, Any]) -> None:
    layer, conv = build(kind, **arguments), nn.Conv2d(6, 12, **arguments)
    names = "in_channels out_channels kernel_size stride padding dilation groups padding_mode"
    for name in (*names.split(), "transposed", "output_padding", "training"):
        assert getattr(layer, name) == getattr(conv, name), name
    assert (layer.bias is None) == (conv.bias is None)
    ours, theirs = repr(layer).removeprefix(kind.__name__), repr(conv).removeprefix("Conv2d")
    if kind is CPConv2d:
        theirs = f"{theirs[:-1]}, rank=12)"
    if kind is ColumnSparseConv2d:
        total = conv.weight[0].numel()
        theirs = f"{theirs[:-1]}, columns={(total + 1) // 2} of {total})"
    if kind is PerforatedConv2d:
        theirs = f"{theirs[:-1]}, rate={(~layer.mask).float().mean():.2f})"
    assert ours == theirs


@pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=ARGUMENTS)
def test_im2col_starts_and_is_stored_like_conv2d(arguments: dict[str, Any]) -> None:
    torch.manual_seed(1)
    layer = build(Im2colConv2d, **arguments)
    torch.manual_seed(1)
    conv = nn.Conv2d(6, 12, **arguments)
    for (name, ours), (expected, theirs) in zip(
        layer.state_dict().items(), conv.state_dict().items(), strict=True
    ):
        assert name == expected
        assert torch.equal(ours, theirs)
    conv.load_state_dict(layer.state_dict())
    layer.load_state_dict(conv.state_dict())


@pytest.mark.parametrize("groups", [1, 2])
def test_cp_starts_with_the_output_variance_of_conv2d(groups: int) -> None:
    variances = []
    for _ in range(400):
        layer = CPConv2d(8, 8, (3, 2), groups=groups, rank=16)
        variances.append(layer.to_conv().weight.square().mean())
    measured = torch.stack(variances)
    expected = 1 / (3 * (8 // groups) * 3 * 2)  # that of the uniform distribution that nn.Conv2d draws from
    standard_error = measured.std() / len(variances) ** 0.5
    assert (measured.mean() - expected).abs() < 5 * standard_error
    assert standard_error < 0.1 * expected
    assert layer.bias.abs().max() <= (8 // groups * 3 * 2) ** -0.5


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"in_channels": 0}, ValueError, "in_channels: expected at least 1, got 0"),
        ({"in_channels": 5, "groups": 2}, ValueError, "in_channels: expected a multiple of groups=2, got 5"),
        (
            {"out_channels": 5, "groups": 2},
            ValueError,
            "out_channels: expected a multiple of groups=2, got 5",
        ),
        ({"out_channels": "5"}, TypeError, "out_channels: expected an int, got '5'"),
        ({"groups": 0}, ValueError, "groups: expected at least 1, got 0"),
        ({"kernel_size": (0, 3)}, ValueError, r"kernel_size: expected at least 1, got \(0, 3\)"),
        ({"kernel_size": "3"}, TypeError, "kernel_size: expected an int or a pair of ints, got '3'"),
        ({"stride": 0}, ValueError, r"stride: expected at least 1, got \(0, 0\)"),
        ({"padding": -1}, ValueError, r"padding: expected at least 0, got \(-1, -1\)"),
        ({"padding": "full"}, ValueError, "padding: expected 'same', 'valid', an int or a pair .*'full'"),
        (
            {"padding": "same", "stride": 2},
            ValueError,
            r"padding: 'same' is for stride 1, got stride \(2, 2\)",
        ),
        ({"dilation": 1.5}, TypeError, "dilation: expected an int or a pair of ints, got 1.5"),
        ({"padding_mode": "mirror"}, ValueError, "padding_mode: expected one of zeros, reflect, .*'mirror'"),
        ({"rank": 0}, ValueError, "rank: expected at least 1, got 0"),
        ({"rank": 7, "groups": 2}, ValueError, "rank: expected a multiple of groups=2, got 7"),
        ({"rank": 2.0}, TypeError, "rank: expected an int, got 2.0"),
        ({"columns": [0, 2, 2]}, ValueError, "columns: expected strictly increasing indices"),
        ({"columns": [0, 54]}, ValueError, "columns: expected indices from 0 to 53, got 0 to 54"),
        ({"columns": [-1, 5]}, ValueError, "columns: expected indices from 0 to 53, got -1 to 5"),
        ({"columns": [[0, 1]]}, ValueError, r"columns: expected the shape \(nnz\), got \(1, 2\)"),
        (
            {"columns": [0, 1], "groups": 2},
            ValueError,
            r"columns: expected the shape \(2, nnz\), got \(2,\)",
        ),
        ({"columns": [0.5]}, TypeError, "columns: expected int32, got torch.float32"),
        ({"columns": 3}, TypeError, "columns: expected a tensor or a sequence of ints, got 3"),
    ],
)
def test_arguments_that_cannot_be_are_refused(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    own = {"rank": [CPConv2d], "columns": [ColumnSparseConv2d]}
    for kind in next((kinds for name, kinds in own.items() if name in arguments), LAYERS):
        with pytest.raises(error, match=message):
            build(kind, **arguments)


@by_kind
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_inputs_that_cannot_be_are_refused_in_the_same_words(kind: type[Layer], training: bool) -> None:
    layer = build(kind, groups=2).train(training)
    with torch.no_grad():
        with pytest.raises(ValueError, match=r"x: expected 6 channels \(2 groups of 3\), got 5"):
            layer(torch.randn(2, 5, 9, 9))
        with pytest.raises(ValueError, match=r"x: expected 4 dimensions"):
            layer(torch.randn(9, 9))
        with pytest.raises(ValueError, match=r"(weight|factor_c): expected torch.float64 like x"):
            layer(torch.randn(2, 6, 9, 9).double())
        with pytest.raises(NotImplementedError, match=r"x: expected float32 or float64, got torch.bfloat16"):
            layer(torch.randn(2, 6, 9, 9).bfloat16())
        with pytest.raises(TypeError, match=r"x: expected a tensor"):
            layer(torch.randn(2, 6, 9, 9).numpy())


@by_kind
def test_one_image_without_a_batch_is_taken_as_conv2d_does(kind: type[Layer]) -> None:
    layer = build(kind).eval()
    x = image(layer)
    with torch.no_grad():
        assert torch.equal(layer(x[0]), layer(x[:1])[0])


@by_kind
def test_a_channels_last_module_computes_the_same(kind: type[Layer]) -> None:
    layer = build(kind).eval().to(memory_format=torch.channels_last)
    x = image(layer, torch.channels_last)
    with torch.no_grad():
        y = layer(x)
    assert_computes(y, layer, x)
    assert y.is_contiguous(memory_format=torch.channels_last)
