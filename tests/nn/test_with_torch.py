"""The layers work with what else PyTorch does with modules: compiling, exporting, meta tensors, training."""

import pytest
import torch
from torch import nn

from cnnkern.nn import CPConv2d, Im2colConv2d
from tests.nn.layers import ANY_SIZE, LAYERS, Layer, assert_computes, build, image

by_kind = pytest.mark.parametrize("kind", LAYERS)


@pytest.fixture(autouse=True)
def _forget_compiled_code() -> None:
    torch.compiler.reset()


@by_kind
@pytest.mark.parametrize(
    "padding", [{"padding": 1}, {"padding": "same"}, {"padding": 1, "padding_mode": "reflect"}]
)
def test_compiles_without_a_break(kind: type[Layer], padding: dict) -> None:
    layer = build(kind, **padding).eval()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = image(layer, memory_format)
        with torch.no_grad():
            y = compiled(x)
        assert_computes(y, layer, x)
        assert y.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("kind", ANY_SIZE)
def test_compiles_for_any_size(kind: type[Layer]) -> None:
    layer = build(kind, padding=1, stride=2).eval()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for size in ((2, 6, 9, 11), (3, 6, 8, 7), (5, 6, 12, 13)):
        x = torch.randn(size)
        with torch.no_grad():
            assert_computes(compiled(x), layer, x)


def test_compiles_with_inductor() -> None:
    net = nn.Sequential(Im2colConv2d(3, 6, 3, padding=1), nn.ReLU(), CPConv2d(6, 12, 3, rank=4)).eval()
    x = torch.randn(1, 3, 9, 8)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(net, fullgraph=True)(x), net(x))


@by_kind
def test_weights_changed_after_compiling_are_seen(kind: type[Layer]) -> None:
    layer = build(kind).eval()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = image(layer)
    with torch.no_grad():
        compiled(x)
        next(layer.parameters()).mul_(2)
        assert_computes(compiled(x), layer, x)


@by_kind
def test_exports_with_a_dynamic_batch(kind: type[Layer]) -> None:
    layer = build(kind, padding=1).eval()
    x = image(layer)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert str(kind.packed_operation).replace("_packed", "") in called
    other = torch.randn(5, *x.shape[1:])
    with torch.no_grad():
        assert_computes(program.module()(other), layer, other)


@by_kind
def test_lives_on_the_meta_device(kind: type[Layer]) -> None:
    layer = build(kind, padding=1, stride=2, device="meta").eval()
    with torch.no_grad():
        y = layer(image(layer).to("meta"))
    assert (y.device.type, y.shape) == ("meta", (2, 12, 5, 6))
    layer.to_empty(device="cpu")
    layer.reset_parameters()
    for name, buffer in build(kind, padding=1, stride=2).named_buffers():
        getattr(layer, name).copy_(buffer)
    x = image(layer)
    with torch.no_grad():
        assert_computes(layer(x), layer, x)


@by_kind
def test_autocast_computes_in_float32(kind: type[Layer]) -> None:
    layer = build(kind).eval()
    x = image(layer).bfloat16()
    for training in (True, False):
        layer.train(training)
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            y = layer(x)
        assert_computes(y, layer, x.float())


@by_kind
def test_vmap_over_inputs_and_weights(kind: type[Layer]) -> None:
    layers = [build(kind).eval() for _ in range(3)]
    stacked, _ = torch.func.stack_module_state(layers)
    x = image(layers[0])
    stacked = {name: value.detach() for name, value in stacked.items()}
    y = torch.vmap(lambda state: torch.func.functional_call(layers[0], state, (x,)))(stacked)
    for layer, one in zip(layers, y, strict=True):
        assert_computes(one, layer, x)
    assert_computes(layers[0].requires_grad_(False)(x), layers[0], x)
