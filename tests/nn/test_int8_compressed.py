"""Int8CPConv2d and Int8ColumnSparseConv2d compute what they stand for, keep it, and say what is wrong."""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import cnnkern
from cnnkern import ops
from cnnkern.nn import (
    ColumnSparseConv2d,
    CPConv2d,
    Im2colConv2d,
    Int8ColumnSparseConv2d,
    Int8Conv2d,
    Int8CPConv2d,
    Int8Linear,
)
from tests.nn.layers import build
from tests.nn.test_int8 import GEOMETRIES, NUMBERS, image

FLOATS = {Int8CPConv2d: CPConv2d, Int8ColumnSparseConv2d: ColumnSparseConv2d}
KINDS = tuple(FLOATS)
Int8 = Int8CPConv2d | Int8ColumnSparseConv2d


def pair_of(kind: type[Int8], numbers: dict[str, Any] | None = None, **arguments: Any) -> tuple[Any, Int8]:
    """A float layer, and its int8 form; both in eval mode."""
    layer = build(FLOATS[kind], **arguments).eval()
    numbers = NUMBERS | (numbers or {})
    if kind is Int8ColumnSparseConv2d:
        return layer, kind.from_column_sparse(layer, **numbers)
    if "inner_scale" not in numbers:
        x = (image().float() - numbers["x_zero_point"]) * numbers["x_scale"]
        numbers["inner_scale"] = layer.inner_range(x) / 127
    return layer, kind.from_cp(layer, **numbers)


def make(kind: type[Int8], numbers: dict[str, Any] | None = None, **arguments: Any) -> Int8:
    return pair_of(kind, numbers, **{"padding": 1, **arguments})[1]


def expected(layer: Int8, x: Tensor) -> Tensor:
    """What the plain operation, or the dense layer, makes of the buffers as they are now."""
    if isinstance(layer, Int8ColumnSparseConv2d):
        return layer.to_dense()(x)
    like = torch.nn.Conv2d(6, 12, layer.kernel_size, 1, layer.padding, layer.dilation)
    mode = (
        {"mode": layer.padding_mode}
        if layer.padding_mode != "zeros"
        else {"value": layer.x_zero_point.item()}
    )
    x = F.pad(x, like._reversed_padding_repeated_twice, **mode)
    factors = layer.factor_c, layer.factor_h, layer.factor_w, layer.factor_k
    return ops.int8_cp_conv2d(
        *(x, *factors, layer.bias),
        x_scale=layer.x_scale.item(),
        x_zero_point=layer.x_zero_point.item(),
        factor_c_scale=layer.factor_c_scale,
        factor_k_scale=layer.factor_k_scale,
        out_scale=None if layer.out_scale is None else layer.out_scale.item(),
        out_zero_point=layer.out_zero_point.item(),
        stride=layer.stride,
        dilation=layer.dilation,
        groups=layer.groups,
        activation=layer.activation,
    )


@pytest.mark.parametrize("arguments", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_is_that_of_its_integers(kind: type[Int8], arguments: dict[str, Any], tmp_path: Path) -> None:
    """And stays it in another layout, in training mode, without a batch, and from a file."""
    layer = make(kind, {"activation": "relu"}, **arguments)
    x = image()
    y = expected(layer, x)
    assert len(y.unique()) > 20
    for each in (x, x.contiguous(memory_format=torch.channels_last)):
        assert torch.equal(layer(each), y)
        assert torch.equal(copy.deepcopy(layer).train()(each), y)
    assert torch.equal(layer(x[0]), y[0])
    cnnkern.save(layer, tmp_path / "layer")
    restored = cnnkern.load(tmp_path / "layer", Im2colConv2d(6, 12, **{"padding": 1, **arguments}).to_conv())
    assert repr(restored) == repr(layer)
    assert torch.equal(restored(x), y)


@pytest.mark.parametrize("x_dtype", [torch.uint8, torch.int8])
@pytest.mark.parametrize("kind", KINDS)
def test_the_stock_form_differs_by_its_rounding(kind: type[Int8], x_dtype: torch.dtype) -> None:
    numbers = {"x_zero_point": 3, "out_zero_point": 2, "x_dtype": x_dtype, "activation": "relu"}
    layer, x = make(kind, numbers), image(x_dtype)
    assert (layer(x).int() - layer.to_stock()(x).int()).abs().max() <= 1
    layer = make(kind, numbers | {"out_scale": None})
    torch.testing.assert_close(layer.to_stock()(x), layer(x))


def test_the_cp_layer_is_half_a_step_of_each_component_away_from_its_factors() -> None:
    """The greatest values are the ends of the grids: none is clamped by more than rounding."""
    _, layer = pair_of(Int8CPConv2d, {"out_scale": None}, padding=1)
    x = image()
    cp, real = layer.to_cp(), (x.float() - 120) * 0.05
    steps = layer.factor_k.float().abs() * layer.factor_k_scale[:, None]
    beyond = (cp.inner_range(real) - 127).clamp(min=0.5)
    with torch.no_grad():
        error = (layer(x) - cp(real)).abs().amax((0, 2, 3))
    assert (error <= 1.001 * steps @ beyond).all()  # a thousandth for float32
    assert torch.allclose(layer.to_conv().weight, cp.to_conv().weight)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_the_nearest_integers(kind: type[Int8]) -> None:
    layer, int8 = pair_of(kind, groups=2)
    step = 0.5 + 1e-4  # of the scale, and float32
    if kind is Int8ColumnSparseConv2d:
        real = int8.real_weight()
        assert ((real - layer.weight).abs() <= step * int8.weight_scale[:, None]).all()
    else:
        back = int8.to_cp()
        assert ((back.factor_c - layer.factor_c).abs() <= step * int8.factor_c_scale[:, None]).all()
        inner = layer.factor_w[:, 0] / back.factor_w[:, 0]
        by_row = inner.view(2, 1, -1).expand(-1, 6, -1).reshape(layer.factor_k.shape)
        error = (back.factor_k - layer.factor_k * by_row).abs()
        assert (error <= step * int8.factor_k_scale[:, None]).all()
        assert torch.equal(back.factor_h, layer.factor_h)
    assert torch.equal(int8.bias, layer.bias)


CHANGES: dict[str, Callable[[Any], object]] = {
    "weights": lambda layer: (layer.weight if hasattr(layer, "weight") else layer.factor_w).neg_(),
    "bias": lambda layer: layer.bias.add_(1),
    "x_zero_point": lambda layer: layer.x_zero_point.sub_(5),
    "no out_scale": lambda layer: setattr(layer, "out_scale", None),
    "half": lambda layer: layer.half(),
}


@pytest.mark.parametrize("name", [*CHANGES, "compiled", "exported", "real numbers", "another state"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_stays_what_its_buffers_say(kind: type[Int8], name: str) -> None:
    layer, x = make(kind), image()
    y = layer(x)
    if name == "compiled":
        assert torch.equal(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), y)
    elif name == "exported":
        assert torch.equal(torch.export.export(layer, (x,)).module()(x), y)
    elif name == "real numbers":
        assert torch.equal(layer((x.float() - 120) * 0.05), y)
    elif name == "another state":
        other = make(kind, {"x_scale": 0.3, "out_zero_point": 1})
        other.load_state_dict(layer.state_dict())
        assert torch.equal(other(x), y)
    else:
        CHANGES[name](layer)
        assert torch.equal(layer(x), expected(layer, x))


@pytest.mark.parametrize(
    ("kind", "numbers", "error", "message"),
    [
        (Int8CPConv2d, {"inner_scale": torch.ones(3)}, ValueError, r"inner_scale: expected 12 elements"),
        (Int8CPConv2d, {"inner_scale": 0.0}, ValueError, r"inner_scale: expected positive numbers"),
        (Int8ColumnSparseConv2d, {"x_zero_point": 256}, ValueError, r"x_zero_point: expected 0 to 255"),
        (Int8CPConv2d, {"x_scale": None, "inner_scale": 1.0}, TypeError, r"x_scale: expected a float"),
    ],
)
def test_wrong_numbers_are_refused(
    kind: type[Int8], numbers: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make(kind, numbers)


@pytest.mark.parametrize(
    ("name", "kind", "arguments"),
    [
        ("in_channels, kernel_size", Int8Conv2d, (7400, 1, 3)),
        ("in_features", Int8Linear, (66_000, 1)),
        ("in_channels", partial(Int8CPConv2d, rank=1), (66_000, 1, 1)),
        ("rank", partial(Int8CPConv2d, rank=66_000), (1, 1, 1)),
        ("columns", partial(Int8ColumnSparseConv2d, columns=range(66_000)), (66_000, 1, 1)),
    ],
)
def test_sums_that_could_leave_int32_are_refused(
    name: str, kind: Callable[..., torch.nn.Module], arguments: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected sums of at most 65793 products"):
        kind(*arguments, x_scale=0.1, x_zero_point=0)


@pytest.mark.parametrize("name", ["factor_c", "factor_h", "factor_w", "factor_k", "bias"])
def test_factors_that_are_not_finite_are_refused(name: str) -> None:
    layer = cnnkern.CPConv2d(6, 12, 3, rank=12)
    getattr(layer, name).data[1] = torch.nan
    with pytest.raises(ValueError, match=f"{name}: expected finite values"):
        Int8CPConv2d.from_cp(layer, 0.1, 3, inner_scale=1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_layers_and_inputs_are_refused(kind: type[Int8]) -> None:
    convert = kind.from_cp if kind is Int8CPConv2d else kind.from_column_sparse
    with pytest.raises(TypeError, match=r"layer: expected a C\w+, got Conv2d"):
        convert(torch.nn.Conv2d(6, 12, 3), 0.1, 3, **({"inner_scale": 1.0} if kind is Int8CPConv2d else {}))
    layer = make(kind)
    with pytest.raises(ValueError, match=r"x: expected torch.uint8 or real numbers, got torch.int8"):
        layer(image(torch.int8))
    with pytest.raises(ValueError, match=r"x: expected 6 channels"):
        layer(image()[:, :5])
