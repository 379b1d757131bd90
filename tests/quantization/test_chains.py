"""Integers pass from layer to layer where the graph allows it, and the simulation is exact."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnkern import quantization
from tests.quantization.networks import NETWORKS, Block, Branches, Gated, Mobile, Residual, trained


def types_between(model: nn.Module, x: Tensor) -> dict[str, torch.dtype]:
    """{module: type of what it returns} of a call."""
    types = {}
    for name, module in model.named_modules():
        if not list(module.children()) and not name.endswith(".pool"):  # part of an integer average
            module.register_forward_hook(lambda _, __, y, name=name: types.__setitem__(name, y.dtype))
    with torch.no_grad():
        model(x)
    return types


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8], ids=str)
@pytest.mark.parametrize("ranges", ["learned", "observed"])
@pytest.mark.parametrize("make", NETWORKS)
def test_the_simulation_is_what_the_int8_model_computes(
    make: Callable[[], nn.Module], ranges: str, dtype: torch.dtype
) -> None:
    """To the last integer, after training steps that move weights, batch norms and ranges."""
    network, x = trained(make)
    prepared = quantization.prepare(network, [x], ranges=ranges, dtype=dtype)
    optimizer = torch.optim.SGD(prepared.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        prepared(torch.randn_like(x)).square().mean().backward()
        optimizer.step()
    prepared.eval()
    outputs: dict[str, Tensor] = {}
    for name, layer in prepared.layers().items():
        grid = None if layer.output is None else layer.output.grid()
        layer.register_forward_hook(
            lambda _, __, y, name=name, grid=grid: outputs.__setitem__(
                name, y if grid is None else grid.quantize(y)
            )
        )
    model, _ = prepared.convert()
    for name in outputs:
        model.get_submodule(name).register_forward_hook(
            lambda _, __, y, name=name: torch.testing.assert_close(y, outputs[name], rtol=0, atol=0)
        )
    for each in (x, 3 * torch.randn_like(x).contiguous(memory_format=torch.channels_last)):
        with torch.no_grad():
            assert torch.equal(prepared(each), model(each))


def test_a_residual_network_is_integers_from_end_to_end() -> None:
    network, x = trained(Residual)
    model, report = quantization.quantize(network, [x])
    assert report.floats == {}
    assert report.fallback is None
    assert [row.output for row in report.layers] == ["uint8"] * 5 + ["float32"]
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    types = types_between(model, x)
    assert types.pop("head") == torch.float32
    assert set(types.values()) == {torch.uint8}


def test_concatenated_tensors_have_one_grid() -> None:
    network, x = trained(Branches)
    prepared = quantization.prepare(network, [x])
    layers = prepared.layers()
    assert layers["left"].output is layers["right"].output
    assert layers["left"].output is not layers["stem"].output
    model, report = prepared.convert()
    assert report.floats == {"mean": "no int8 layer follows"}
    assert {name for name, kind in types_between(model, x).items() if kind == torch.float32} == {"last"}


def test_what_stays_in_float_is_said() -> None:
    network, x = trained(Gated)
    model, report = quantization.quantize(network, [x])
    assert [(row.input, row.output) for row in report.layers] == [
        ("uint8", "uint8"),
        ("uint8", "float32"),
        ("uint8", "float32"),
    ]
    assert report.floats == {
        "sigmoid": "no integer form of this operation",
        "mul": "no integer form of this operation",
        "add": "its input is float32: mul",
        "relu_1": "its input is float32: mul",
        "max_pool2d": "its input is float32: relu_1",
        "flatten": "no int8 layer follows",
    }
    with torch.no_grad():
        assert torch.nn.functional.cosine_similarity(model(x), network(x)).min() > 0.99


def test_relu6_is_where_the_grid_ends() -> None:
    network, x = trained(Mobile)
    prepared = quantization.prepare(network, [100 * x])
    for name in ("expand.0", "depthwise.0"):
        grid = prepared.layers()[name].output.grid()
        assert grid.high == pytest.approx(6, rel=1e-6)
        assert grid.low == 0


def test_relu6_beside_others_on_its_grid_is_computed() -> None:
    class Six(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(torch.cat((F.relu6(self.a(x)), self.b(x)), 1))

    network, x = trained(Six)
    model, report = quantization.quantize(network, [50 * x])
    with torch.no_grad():
        assert (model(50 * x) - network(50 * x)).abs().max() < 0.05 * network(50 * x).abs().max()
    assert report.floats == {}


@pytest.mark.parametrize("make", NETWORKS)
def test_the_model_is_not_changed(make: Callable[[], nn.Module]) -> None:
    network, x = trained(make)
    network.train()
    before = copy.deepcopy(network.state_dict())
    quantization.quantize(network, [x])
    quantization.prepare(network, [x])(x)
    assert network.training
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


class Dynamic(nn.Module):
    """Control flow that depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        if x.sum() > 0:
            x = x.relu()
        return self.last(x.mean(dim=(2, 3)))


class Overwriting(nn.Module):
    """A tensor that is overwritten and used again, which a graph does not show."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x.relu_()
        return self.last(x)


@pytest.mark.parametrize(("make", "reason"), [(Dynamic, "cannot trace Dynamic"), (Overwriting, "overwrites")])
def test_a_model_without_a_graph_has_float_between_its_layers(
    make: Callable[[], nn.Module], reason: str
) -> None:
    network, x = trained(make)
    prepared = quantization.prepare(network, [x]).eval()
    model, report = prepared.convert()
    assert reason in report.fallback
    assert [(row.name, row.input, row.output) for row in report.layers] == [
        (name, "uint8", "float32") for name in ("conv", "last")
    ]
    with torch.no_grad():
        assert torch.equal(model(x), prepared(x))
        assert F.cosine_similarity(model(x).flatten(1), network(x).flatten(1)).min() > 0.99


def test_layers_can_be_kept() -> None:
    network, x = trained(Residual)
    _, report = quantization.quantize(network, [x], first=False, last=False, keep=["blocks.1.conv1"])
    assert [row.name for row in report.layers] == ["blocks.0.conv1", "blocks.0.conv2", "blocks.1.conv2"]
    assert report.floats["stem.0"] == "the first layer is kept in float32, as asked for"
    assert report.floats["head"] == "the last layer is kept in float32, as asked for"
    assert report.floats["blocks.1.conv1"] == "kept in float32, as asked for"
    with pytest.raises(ValueError, match="keep: expected names of convolutions or linear layers, got stem"):
        quantization.quantize(network, [x], keep=["stem"])


def test_a_layer_too_long_for_int32_stays_in_float() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(66_000, 2), nn.ReLU(), nn.Linear(2, 2))
    _, report = quantization.quantize(network, [torch.randn(2, 66_000)])
    assert [row.name for row in report.layers] == ["3"]
    assert "could leave int32" in report.floats["1"]


def test_the_int8_model_is_exported_and_compiled_in_one_graph() -> None:
    network, x = trained(Residual)
    model, _ = quantization.quantize(network, [x])
    with torch.no_grad():
        expected = model(x)
        assert torch.equal(torch.export.export(model, (x,)).module()(x), expected)
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        assert torch.equal(compiled(x), expected)


def test_a_layer_that_calibration_does_not_reach_is_named() -> None:
    class Rare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.often, self.rare = nn.Linear(3, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.often(x)
            return self.rare(x) if x.sum() > 1e9 else x

    with pytest.raises(ValueError, match=r"calibration_batches: at rare: expected to have seen values"):
        quantization.quantize(Rare(), [torch.randn(2, 3)])


def test_a_block_alone_quantizes_its_input_once() -> None:
    model, _ = quantization.quantize(Block(4).eval(), [torch.randn(2, 4, 5, 5)])
    names = [name for name, _ in model.named_modules() if name.endswith("quantize")]
    assert len(names) == 1
