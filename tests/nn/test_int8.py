"""Int8Conv2d and Int8Linear compute what they stand for, keep it, and say what is wrong."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnkern import reference
from cnnkern.nn import Int8Conv2d, Int8Linear
from tests.nn.layers import ARGUMENTS

GEOMETRIES = {name: given for name, given in ARGUMENTS.items() if "dtype" not in given}
NUMBERS: dict[str, Any] = {"x_scale": 0.05, "x_zero_point": 120, "out_scale": 0.03, "out_zero_point": 110}
KINDS = ("conv", "linear")


def conv(**arguments: Any) -> tuple[nn.Conv2d, Int8Conv2d]:
    """A stock convolution, and its int8 form in eval mode."""
    numbers = NUMBERS | {name: arguments.pop(name) for name in list(arguments) if name in OWN}
    stock = nn.Conv2d(6, 12, **{"kernel_size": 3, **arguments}).eval()
    return stock, Int8Conv2d.from_conv(stock, **numbers)


OWN = (*NUMBERS, "activation", "x_dtype", "weight_scale")


def build(kind: str, **numbers: Any) -> Int8Conv2d | Int8Linear:
    if kind == "conv":
        return conv(padding=1, **numbers)[1]
    return Int8Linear.from_linear(nn.Linear(11, 12).eval(), **(NUMBERS | numbers))


def image(dtype: torch.dtype = torch.uint8) -> Tensor:
    limits = torch.iinfo(dtype)
    return torch.randint(limits.min, limits.max + 1, (2, 6, 9, 11), dtype=dtype)


def expected(layer: Int8Conv2d | Int8Linear, x: Tensor) -> Tensor:
    """What the reference makes of the buffers as they are now."""
    numbers = {
        "x_scale": layer.x_scale.item(),
        "x_zero_point": layer.x_zero_point.item(),
        "weight_scale": layer.weight_scale,
        "out_scale": None if layer.out_scale is None else layer.out_scale.item(),
        "out_zero_point": layer.out_zero_point.item(),
        "activation": layer.activation,
    }
    if isinstance(layer, Int8Linear):
        return reference.int8_linear(x, layer.weight, layer.bias, **numbers)
    like = nn.Conv2d(6, 12, layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups)
    margins = like._reversed_padding_repeated_twice
    if layer.padding_mode == "zeros":
        padded = F.pad(x, margins, value=numbers["x_zero_point"])
    else:
        padded = F.pad(x, margins, layer.padding_mode)
    options = {"stride": layer.stride, "dilation": layer.dilation, "groups": layer.groups}
    return reference.int8_conv2d(padded, layer.weight, layer.bias, **numbers, **options)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("arguments", GEOMETRIES.values(), ids=GEOMETRIES)
def test_a_convolution_is_that_of_its_integers(
    arguments: dict[str, Any], memory_format: torch.memory_format
) -> None:
    _, layer = conv(**arguments, activation="relu")
    x = image().contiguous(memory_format=memory_format)
    for module in (layer, copy.deepcopy(layer).train()):
        y = module(x)
        assert torch.equal(y, expected(layer, x))
        assert y.is_contiguous(memory_format=memory_format)
    assert torch.equal(layer(x[0]), layer(x)[0])


@pytest.mark.parametrize("x_dtype", [torch.uint8, torch.int8])
@pytest.mark.parametrize("out_scale", [None, 0.03])
@pytest.mark.parametrize("kind", KINDS)
def test_real_numbers_are_quantized_first(kind: str, out_scale: float | None, x_dtype: torch.dtype) -> None:
    layer = build(kind, x_zero_point=5, out_scale=out_scale, out_zero_point=3, x_dtype=x_dtype)
    x = torch.randn(2, 6, 9, 11)
    integers = reference.int8_quantize(x, 0.05, 5, x_dtype)
    y = layer(x)
    assert y.dtype == (torch.float32 if out_scale is None else x_dtype)
    assert torch.equal(y, expected(layer, integers))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_the_nearest_integers(kind: str) -> None:
    stock = nn.Conv2d(6, 12, 3) if kind == "conv" else nn.Linear(11, 12)
    with torch.no_grad():
        stock.weight[3] = 0
        stock.weight[4] = 1e-44
    convert = Int8Conv2d.from_conv if kind == "conv" else Int8Linear.from_linear
    for scale in (None, torch.rand(12) * 0.01 + 0.001):
        layer = convert(stock, 0.1, 3, weight_scale=scale)
        integers, scales = reference.int8_quantize_weight(stock.weight.detach(), scale)
        assert torch.equal(layer.weight, integers)
        assert torch.equal(layer.weight_scale, scales)
        assert layer.weight_scale.min() > 0
        dense = layer.to_conv() if kind == "conv" else layer.to_linear()
        real = integers * scales.view(-1, *[1] * (integers.dim() - 1))
        assert torch.equal(dense.weight, real)
        assert torch.equal(dense.bias, stock.bias)
        assert dense.weight.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_the_layer_is_close_to_the_one_it_came_from(kind: str) -> None:
    """Half a step of every activation against every weight, and half a step of every weight."""
    stock = nn.Conv2d(6, 12, 3) if kind == "conv" else nn.Linear(11, 12)
    convert = Int8Conv2d.from_conv if kind == "conv" else Int8Linear.from_linear
    x, step = torch.rand(2, 6, 9, 11) * 4 - 2, 4 / 255
    layer = convert(stock, step, 128)
    terms = stock.weight[0].numel()
    half_steps = terms * (stock.weight.abs().max() * step + layer.weight_scale.max() * (2 + step)) / 2
    assert (layer(x) - stock(x)).abs().max() <= half_steps


@pytest.mark.parametrize("x_dtype", [torch.uint8, torch.int8])
@pytest.mark.parametrize("kind", KINDS)
def test_the_stock_form_differs_by_its_rounding(kind: str, x_dtype: torch.dtype) -> None:
    numbers = {"x_zero_point": 3, "out_zero_point": 2, "x_dtype": x_dtype}
    layer = build(kind, **numbers, activation="relu")
    x = image(x_dtype)
    assert (layer(x).int() - layer.to_stock()(x).int()).abs().max() <= 1
    layer = build(kind, **numbers, out_scale=None)
    torch.testing.assert_close(layer.to_stock()(x), layer(x))


@pytest.mark.parametrize("kind", KINDS)
def test_state_goes_from_layer_to_layer(kind: str) -> None:
    layer, other = build(kind), build(kind, x_scale=0.1, x_zero_point=7, out_scale=1.0, out_zero_point=0)
    x = image()
    other(x)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))
    assert "x_scale=0.05, x_zero_point=120" in repr(other)
    assert len(layer.state_dict()) == 7
    assert not list(layer.parameters())


CHANGES: dict[str, Callable[[Any], object]] = {
    "weight": lambda layer: layer.weight.neg_(),
    "another weight": lambda layer: setattr(layer, "weight", layer.weight.flip(0)),
    "weight_scale": lambda layer: layer.weight_scale.mul_(2),
    "bias": lambda layer: layer.bias.add_(1),
    "x_scale": lambda layer: layer.x_scale.mul_(2),
    "x_zero_point": lambda layer: layer.x_zero_point.sub_(5),
    "out_scale": lambda layer: layer.out_scale.mul_(2),
    "no out_scale": lambda layer: setattr(layer, "out_scale", None),
    "double": lambda layer: layer.double(),
    "half": lambda layer: layer.half(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("kind", KINDS)
def test_changes_are_seen(kind: str, change: Callable[[Any], object]) -> None:
    layer, x = build(kind), image()
    layer(x)
    change(layer)
    assert torch.equal(layer(x), expected(layer, x))


@pytest.mark.parametrize("kind", KINDS)
def test_compiles_and_exports_without_a_break(kind: str) -> None:
    layer, x = build(kind), image()
    assert torch.equal(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), layer(x))
    exported = torch.export.export(layer, (x,))
    assert torch.equal(exported.module()(x), layer(x))


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "zero point": ({"x_zero_point": 256}, ValueError, r"x_zero_point: expected 0 to 255 .* got 256"),
    "zero point of s8": (
        {"x_zero_point": -129, "x_dtype": torch.int8},
        ValueError,
        r"x_zero_point: expected -128 to 127 .* got -129",
    ),
    "out zero point": ({"out_zero_point": -1}, ValueError, r"out_zero_point: expected 0 to 255"),
    "real zero point": ({"x_zero_point": 1.5}, TypeError, r"x_zero_point: expected an int, got 1.5"),
    "scale": ({"x_scale": 0.0}, ValueError, r"x_scale: expected a positive number, got 0.0"),
    "negative scale": ({"out_scale": -1.0}, ValueError, r"out_scale: expected a positive number"),
    "no scale": ({"x_scale": None}, TypeError, r"x_scale: expected a float, got None"),
    "activation": ({"activation": "gelu"}, ValueError, r"activation: expected None or 'relu', got 'gelu'"),
    "x_dtype": ({"x_dtype": torch.int32}, ValueError, r"x_dtype: expected torch.uint8 or torch.int8"),
    "weight_scale": ({"weight_scale": torch.ones(3)}, ValueError, r"weight_scale: expected 12 elements"),
    "negative weight_scale": ({"weight_scale": -torch.ones(12)}, ValueError, r"expected positive numbers"),
}


@pytest.mark.parametrize(("arguments", "error", "message"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("kind", KINDS)
def test_wrong_numbers_are_refused(
    kind: str, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        build(kind, **arguments)


@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
@pytest.mark.parametrize("name", ["weight", "bias"])
@pytest.mark.parametrize("kind", KINDS)
def test_layers_that_are_not_finite_are_refused(kind: str, name: str, value: float) -> None:
    stock = nn.Conv2d(6, 12, 3) if kind == "conv" else nn.Linear(11, 12)
    convert = Int8Conv2d.from_conv if kind == "conv" else Int8Linear.from_linear
    getattr(stock, name).data[1] = value
    with pytest.raises(ValueError, match=f"{name}: expected finite values"):
        convert(stock, 0.1, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_inputs_are_refused(kind: str) -> None:
    layer = build(kind)
    with pytest.raises(ValueError, match=r"x: expected torch.uint8 or real numbers, got torch.int8"):
        layer(image(torch.int8))
    with pytest.raises(ValueError, match=r"x: expected (6 channels|11 elements)"):
        layer(image()[:, :5, :, :5])
    with pytest.raises(NotImplementedError, match="asks for no gradient"):
        layer(torch.randn(2, 6, 9, 11, requires_grad=True))
