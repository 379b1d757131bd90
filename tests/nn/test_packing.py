"""The packed weights of a layer are always those of its weights, and nobody else sees them."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from cnnkern.nn import ColumnSparseConv2d, CPConv2d, PerforatedConv2d
from tests.nn.layers import LAYERS, Layer, assert_computes, build, convert, image

by_kind = pytest.mark.parametrize("kind", LAYERS)


def packed_layer(kind: type[Layer]) -> Layer:
    """A layer in eval mode that has packed its weights."""
    layer = build(kind, padding=1).eval()
    with torch.no_grad():
        layer(image(layer))
    assert layer._packed is not None
    return layer


def first_weight(layer: Layer) -> nn.Parameter:
    return layer.factor_c if isinstance(layer, CPConv2d) else layer.weight


def assert_current(layer: Layer) -> None:
    """The layer computes with the weights that it has now."""
    x = image(layer)
    with torch.no_grad():
        assert_computes(layer(x), layer, x)


@by_kind
def test_packed_weights_are_used_again_in_eval_mode(kind: type[Layer]) -> None:
    layer = packed_layer(kind)
    packed = layer._packed
    with torch.no_grad():
        layer(image(layer))
    with torch.inference_mode():
        layer(image(layer))
    assert layer._packed is packed
    assert type(packed.weights) is torch.Tensor
    assert packed.weights.dim() == 1


@by_kind
def test_nothing_is_packed_in_training_or_where_a_gradient_is_asked_for(kind: type[Layer]) -> None:
    layer = build(kind)
    with torch.no_grad():
        layer(image(layer))
    layer.repack()
    assert layer._packed is None
    layer.eval()(image(layer)).sum().backward()
    assert layer._packed is None
    assert first_weight(layer).grad is not None


@by_kind
def test_a_frozen_layer_packs_without_no_grad(kind: type[Layer]) -> None:
    layer = build(kind).eval().requires_grad_(False)
    layer(image(layer))
    assert layer._packed is not None


FORGETTING: dict[str, Callable[[Layer], object]] = {
    "train": lambda layer: layer.train(),
    "eval": lambda layer: layer.eval(),
    "eval of a parent": lambda layer: nn.Sequential(layer).eval(),
    "load_state_dict": lambda layer: layer.load_state_dict(build(type(layer), padding=1).state_dict()),
    "load_state_dict of a parent": lambda layer: nn.Sequential(layer).load_state_dict(
        nn.Sequential(build(type(layer), padding=1)).state_dict(), assign=True
    ),
    "to": lambda layer: layer.to(torch.float64),
    "double of a parent": lambda layer: nn.Sequential(layer).double(),
    "another padding mode": lambda layer: setattr(layer, "padding_mode", "reflect"),
    "another weight": lambda layer: setattr(
        layer,
        layer.packed_parameters[-1],
        nn.Parameter(torch.randn_like(getattr(layer, layer.packed_parameters[-1]))),
    ),
}


@by_kind
@pytest.mark.parametrize("change", FORGETTING.values(), ids=FORGETTING)
def test_packed_weights_are_dropped_by(kind: type[Layer], change: Callable[[Layer], object]) -> None:
    layer = packed_layer(kind)
    change(layer)
    assert layer._packed is None
    assert_current(layer.eval())


@by_kind
def test_weights_written_to_in_place_are_packed_again(kind: type[Layer]) -> None:
    for name in build(kind).packed_parameters:
        layer = packed_layer(kind)
        with torch.no_grad():
            getattr(layer, name).mul_(2)
        assert_current(layer)
        with torch.inference_mode():
            getattr(layer, name)[0].zero_()
        assert_current(layer)


def test_columns_written_to_in_place_or_replaced_are_seen() -> None:
    layer = packed_layer(ColumnSparseConv2d)
    layer.columns.add_(1)
    assert_current(layer)
    layer.columns = layer.columns - 1
    assert_current(layer)


@by_kind
def test_the_bias_is_not_packed(kind: type[Layer]) -> None:
    layer = packed_layer(kind)
    layer.bias.data.add_(1)
    assert_current(layer)


@by_kind
def test_repack_sees_what_was_written_through_data(kind: type[Layer]) -> None:
    layer = packed_layer(kind)
    first_weight(layer).data.mul_(2)
    layer.repack()
    assert_current(layer)


@by_kind
def test_packed_weights_are_no_state(kind: type[Layer]) -> None:
    layer = packed_layer(kind)
    buffers = {"mask"} if kind is PerforatedConv2d else set(layer.packed_buffers)
    assert {name for name, _ in layer.named_parameters()} == {*layer.packed_parameters, "bias"}
    assert {name for name, _ in layer.named_buffers()} == buffers
    assert set(layer.state_dict()) == {*layer.packed_parameters, "bias", *buffers}


@by_kind
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_copy_packs_for_itself(kind: type[Layer], copied: Callable[[Layer], Layer]) -> None:
    layer = packed_layer(kind)
    other = copied(layer)
    assert other._packed is None
    with torch.no_grad():
        first_weight(other).mul_(2)
    assert_current(other)
    assert_current(layer)


@by_kind
def test_weights_that_are_no_plain_parameters_are_computed_with_each_time(kind: type[Layer]) -> None:
    class Double(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    layer = packed_layer(kind)
    name = layer.packed_parameters[0]
    parametrize.register_parametrization(layer, name, Double())
    assert_current(layer)
    with torch.no_grad():
        layer.parametrizations[name].original.mul_(3)
    assert_current(layer)
    parametrize.remove_parametrizations(layer, name)
    assert_current(layer)


@by_kind
def test_functional_call_computes_with_the_weights_it_is_given(kind: type[Layer]) -> None:
    layer, other = packed_layer(kind), packed_layer(kind)
    x = image(layer)
    with torch.no_grad():
        y = torch.func.functional_call(layer, dict(other.named_parameters()), x)
    assert_computes(y, other, x)
    assert_current(layer)


@by_kind
def test_a_layer_made_in_inference_mode_packs_too(kind: type[Layer]) -> None:
    with torch.inference_mode():
        layers = [build(kind).eval(), convert(kind, nn.Conv2d(6, 12, 3).eval())]
        for layer in layers:
            layer(image(layer))
            assert layer._packed is not None
            first_weight(layer).mul_(2)
    for layer in layers:
        assert_current(layer)


@by_kind
def test_weights_that_count_no_versions_are_not_packed(kind: type[Layer]) -> None:
    layer = build(kind).eval()
    with torch.inference_mode():
        for name, parameter in list(layer.named_parameters()):
            setattr(layer, name, nn.Parameter(parameter * 2))
        x = image(layer)
        for _ in range(2):
            assert_computes(layer(x), layer, x)
            first_weight(layer).mul_(2)
    assert layer._packed is None
