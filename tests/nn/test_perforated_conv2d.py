"""PerforatedConv2d's masks: its own, one made by a rate, and those of a call."""

import copy
import io
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cnnkern import perforation, reference
from cnnkern.nn import PerforatedConv2d
from cnnkern.nn.stock_perforated_conv2d import StockGatherConv2d, StockGridConv2d
from tests.nn.layers import ARGUMENTS, assert_computes, build, image, output_size


@pytest.fixture
def layer() -> PerforatedConv2d:
    return build(PerforatedConv2d, padding=1).eval()


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("shape", [(9, 11), (2, 9, 11)], ids=str)
def test_the_mask_of_a_call_stands_in_for_the_layers_own(
    layer: PerforatedConv2d, shape: tuple[int, ...], training: bool
) -> None:
    layer.train(training)
    x, mask = image(layer), torch.rand(shape) < 0.3
    with torch.no_grad():
        before = layer(x)
        y = layer(x, mask=mask)
        assert torch.equal(layer(x), before)
        assert torch.equal(layer(x[1], mask=mask[-1:] if len(shape) == 3 else mask), y[1])
    reference.assert_within_bound(
        y, reference.perforated_conv2d, x, layer.weight, mask, layer.bias, padding=1
    )


def test_a_layer_without_a_mask_takes_one_in_each_call() -> None:
    layer = PerforatedConv2d(6, 12, 3, padding=1, mask=None).eval()
    x, mask = image(layer), torch.rand(9, 11) < 0.3
    with torch.no_grad():
        y = layer(x, mask)
        with pytest.raises(ValueError, match="mask: expected one in the call"):
            layer(x)
    reference.assert_within_bound(
        y, reference.perforated_conv2d, x, layer.weight, mask, layer.bias, padding=1
    )
    with pytest.raises(ValueError, match="mask: expected a layer with a mask"):
        layer.to_stock()


def test_a_mask_written_to_in_place_or_replaced_is_seen(layer: PerforatedConv2d) -> None:
    x = image(layer)
    with torch.no_grad():
        layer(x)
        layer.mask[2:] = False
        assert_computes(layer(x), layer, x)
        layer.mask = torch.eye(9, 11).bool()
        assert_computes(layer(x), layer, x)
        layer.load_state_dict(build(PerforatedConv2d, mask=torch.ones(9, 11).bool()).state_dict())
        assert_computes(layer(x), layer, x)


def test_what_the_outputs_show_is_found_once(
    layer: PerforatedConv2d, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    monkeypatch.setattr(
        layer, "_arranged", lambda mask: found.append(0) or type(layer)._arranged(layer, mask)
    )
    with torch.no_grad():
        for _ in range(3):
            layer(image(layer))
    assert len(found) == 1


@pytest.mark.parametrize("pattern", ["grid", "uniform", lambda size, rate: torch.eye(*size).bool()])
@pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=ARGUMENTS)
def test_a_mask_by_rate_is_made_for_the_first_input_or_at_once(arguments: dict, pattern: object) -> None:
    conv = nn.Conv2d(6, 12, **arguments).eval()
    layer = PerforatedConv2d.from_conv(conv, rate=0.6, pattern=pattern)
    at_once = PerforatedConv2d.from_conv(conv, rate=0.6, pattern=pattern, input_size=(9, 11))
    assert layer.mask is None
    x = image(layer)
    with torch.no_grad():
        assert_computes(layer(x), layer, x)
    assert tuple(layer.mask.shape) == output_size(**arguments)
    assert torch.equal(layer.mask, at_once.mask)


def test_a_saved_mask_is_taken_over_by_a_layer_that_waits_for_one(layer: PerforatedConv2d) -> None:
    other = PerforatedConv2d.from_conv(nn.Conv2d(6, 12, 3, padding=1), rate=0.5).eval()
    other.load_state_dict(layer.state_dict())
    x = image(layer)
    with torch.no_grad():
        assert torch.equal(other(x), layer(x))
        assert torch.equal(copy.deepcopy(other)(x), layer(x))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"mask": torch.ones(9, 11)},
            TypeError,
            "mask: expected a tensor of torch.bool .* got torch.float32",
        ),
        ({"mask": [[True]]}, TypeError, "mask: expected a tensor of torch.bool .* got list"),
        ({"mask": torch.ones(2, 9, 11).bool()}, ValueError, r"mask: expected \(oH, oW\), got \(2, 9, 11\)"),
        ({"mask": torch.zeros(9, 11).bool()}, ValueError, "mask: expected at least one kept position"),
        ({"interpolation": "linear"}, ValueError, "interpolation: expected 'nearest' or 'none'"),
    ],
)
def test_masks_that_cannot_be_are_refused(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build(PerforatedConv2d, **arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "mask, rate: expected one of the two"),
        ({"mask": torch.ones(9, 9).bool(), "rate": 0.5}, ValueError, "mask, rate: expected one of the two"),
        ({"rate": 1.0}, ValueError, "rate: expected 0 <= rate < 1, got 1.0"),
        ({"rate": "half"}, TypeError, "rate: expected a number, got 'half'"),
        ({"rate": 0.5, "pattern": "stripes"}, ValueError, "pattern: expected grid, uniform or a function"),
    ],
)
def test_rates_that_cannot_be_are_refused(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        PerforatedConv2d.from_conv(nn.Conv2d(6, 12, 3), **arguments)


def test_an_input_that_the_mask_does_not_fit_is_refused(layer: PerforatedConv2d) -> None:
    with torch.no_grad(), pytest.raises(ValueError, match=r"mask: expected the output's size \(9, 12\)"):
        layer(torch.randn(1, 6, 9, 12))


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (torch.ones(9, 11).bool().to("meta"), ValueError, "mask: expected a tensor on cpu like x, .* meta"),
        (torch.ones(9, 11), TypeError, "mask: expected a tensor of torch.bool, got torch.float32"),
        (torch.ones(3, 9, 11).bool(), ValueError, r"mask: .* \(2, 9, 11\) .* got \(3, 9, 11\)"),
        (torch.eye(2)[0].bool()[:, None, None].expand(2, 9, 11), ValueError, "at least one kept position"),
    ],
    ids=["device", "dtype", "images", "none kept of one image"],
)
def test_a_mask_of_a_call_that_cannot_be_is_refused(
    layer: PerforatedConv2d, mask: Tensor, error: type[Exception], message: str
) -> None:
    x = image(layer)
    with torch.no_grad():
        for _ in range(2):  # at first without a packed weight
            with pytest.raises(error, match=message):
                layer(x, mask=mask)
            layer(x)


GRIDS = {
    "every second": (torch.arange(9) % 2 == 1)[:, None] & (torch.arange(11) % 3 == 0),
    "one row": (torch.arange(9) == 3)[:, None] & (torch.arange(11) > -1),
    "one": (torch.arange(9) == 3)[:, None] & (torch.arange(11) == 3),
}


@pytest.mark.parametrize("interpolation", ["nearest", "none"])
@pytest.mark.parametrize("mask", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize(
    "arguments", [{}, {"groups": 3}, {"stride": 2}, {"padding_mode": "reflect"}], ids=str
)
def test_a_regular_grid_is_a_convolution_with_a_larger_stride(
    arguments: dict, mask: Tensor, interpolation: str
) -> None:
    options = {"padding": 1, **arguments}
    height, width = output_size(**options)
    layer = build(PerforatedConv2d, mask=mask[:height, :width], interpolation=interpolation, **options)
    stock = layer.to_stock()
    assert type(stock) is StockGridConv2d
    x = image(layer)
    with torch.no_grad():
        assert_computes(stock(x), layer, x)
        assert_computes(layer(x), layer, x)


@pytest.mark.parametrize("interpolation", ["nearest", "none"])
def test_any_other_mask_is_a_product_with_the_kept_patches(interpolation: str) -> None:
    layer = build(PerforatedConv2d, groups=2, interpolation=interpolation)
    stock = layer.to_stock()
    assert type(stock) is StockGatherConv2d
    x = image(layer)
    with torch.no_grad():
        assert_computes(stock(x), layer, x)


@pytest.mark.parametrize(
    "mask", [GRIDS["every second"], perforation.uniform((9, 11), 0.6)], ids=["grid", "any"]
)
def test_the_stock_form_can_be_traced_for_export(mask: Tensor) -> None:
    layer = build(PerforatedConv2d, padding=1, mask=mask).eval()
    x = image(layer)
    program = torch.export.export(layer.to_stock(), (x,))
    written = io.BytesIO()
    torch.export.save(program, written)
    assert not any("cnnkern" in str(node.target) for node in program.graph.nodes)
    with torch.no_grad():
        assert_computes(program.module()(x), layer, x)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("arguments", [{}, {"stride": 2}, {"groups": 2, "bias": False}], ids=str)
@pytest.mark.parametrize("interpolation", ["nearest", "none"])
@pytest.mark.parametrize("kind", ["grid", "any"])
def test_the_stock_form_computes_the_same_in_onnx_runtime(
    kind: str, interpolation: str, arguments: dict, tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    options = {"padding": 1, **arguments}
    size = output_size(**options)
    grid = (torch.arange(size[0]) % 2 == 0)[:, None] & (torch.arange(size[1]) % 3 == 1)
    mask = grid if kind == "grid" else perforation.uniform(size, 0.6)
    layer = build(PerforatedConv2d, mask=mask, interpolation=interpolation, **options).eval()
    x, file = image(layer), tmp_path / "layer.onnx"
    # the exporter by tracing: the other one asks for packages that nothing else here needs
    torch.onnx.export(layer.to_stock(), (x,), file, dynamo=False)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert_computes(torch.from_numpy(y), layer, x)


@pytest.mark.parametrize("kernel_size", [1, 2])
def test_a_pooling_layer_that_leaves_gaps_needs_no_interpolation(kernel_size: int) -> None:
    conv = nn.Conv2d(6, 12, 3, padding=1).eval()
    mask = perforation.pooling_structure((9, 11), None, kernel_size, stride=3)
    layer = PerforatedConv2d.from_conv(conv, mask, interpolation="none")
    pool = nn.MaxPool2d(kernel_size, stride=3)
    x = image(layer, torch.channels_last).double().requires_grad_()
    conv, layer = conv.double(), layer.double()
    torch.testing.assert_close(pool(layer(x)), pool(conv(x)))
    dense, perforated = (torch.autograd.grad(pool(net(x)).square().sum(), x)[0] for net in (conv, layer))
    torch.testing.assert_close(perforated, dense)
