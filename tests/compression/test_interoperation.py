"""A compressed model is exported, compiled and run elsewhere, and computes the same there."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cnnkern
from cnnkern.compression import to_stock
from cnnkern.compression.int8 import calibrated, without_grid
from cnnkern.compression.linking import link
from cnnkern.compression.methods import METHODS
from cnnkern.nn import ConvolutionChain
from tests.compression.nets import chain

X = torch.randn(2, 3, 20, 20, generator=torch.Generator().manual_seed(3))


def compressed() -> nn.Sequential:
    """`chain` with layers of several kinds, the last two of its convolutions in a chain of their own."""
    model = chain()
    model[0] = cnnkern.PerforatedConv2d.from_conv(model[0], rate=0.5, input_size=(20, 20))
    bi = METHODS["biclustered"].make(nn.Conv2d(16, 48, 5, padding=2).eval(), (4, 8), (20, 20), 0)
    model[2] = ConvolutionChain(cnnkern.CPConv2d(16, 16, 3, padding=1, rank=8), *bi).eval()
    conv, other = model[4], nn.Conv2d(32, 32, 1).eval()
    with torch.no_grad():
        x = model[:4](X)
        y = conv(x).relu()
        model[4] = calibrated(without_grid(conv), [(x, conv(x))])
        model.insert(6, calibrated(without_grid(other), [(y, other(y))]))
    model.insert(7, cnnkern.ColumnSparseConv2d(32, 32, 3, columns=list(range(0, 288, 3)), padding=1))
    assert link(model)[4].out_scale is not None
    return model.eval()


def assert_same(y: Tensor, model: nn.Module) -> None:
    """Up to rounding: all but the int8 layers are the same sums, and these start from integers that differ by
    one, if at all, where a value lies between two of them."""
    with torch.no_grad():
        torch.testing.assert_close(y, model(X), rtol=1e-3, atol=1e-4)


def test_the_stock_form_has_no_layer_of_ours():
    model = compressed()
    stock = to_stock(model)
    assert not any(type(module).__name__ in ("CPConv2d", "Int8Conv2d") for module in stock.modules())
    with torch.no_grad():
        assert_same(stock(X), model)
    assert type(model[4]) is cnnkern.Int8Conv2d
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module, got list"):
        to_stock([])


def test_the_stock_form_has_its_padding_in_numbers():
    convs = [nn.Conv2d(3, 3, (3, 5), padding="same", dilation=(2, 3)), nn.Conv2d(3, 3, 2, padding="same")]
    model = nn.Sequential(*convs).eval()
    stock = to_stock(model)
    assert [conv.padding for conv in stock] == [(2, 6), "same"]
    with torch.no_grad():
        torch.testing.assert_close(stock(X), model(X))


def test_linear_layers_and_integers_that_pass_between_layers_have_a_stock_form():
    numbers = {"x_scale": 0.05, "x_zero_point": 128}
    linear = cnnkern.Int8Linear.from_linear(nn.Linear(20, 4), **numbers, activation="relu").eval()
    with torch.no_grad():
        torch.testing.assert_close(to_stock(linear)(X), linear(X))
    passing = cnnkern.Int8Linear.from_linear(nn.Linear(20, 4), **numbers, out_scale=0.1)
    assert type(to_stock(passing)) is type(passing.to_stock())


@pytest.mark.parametrize("form", [lambda model: model, to_stock], ids=["ours", "stock"])
def test_torch_export(form, tmp_path: Path):
    model = compressed()
    with torch.no_grad():  # int8 layers have no gradient
        program = torch.export.export(form(model), (X,))
    torch.export.save(program, tmp_path / "model.pt2")
    with torch.no_grad():
        assert_same(torch.export.load(tmp_path / "model.pt2").module()(X), model)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_onnx_runtime_computes_the_same(tmp_path: Path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model, file = compressed(), tmp_path / "model.onnx"
    # the exporter by tracing: the other one asks for packages that nothing else here needs
    torch.onnx.export(to_stock(model), (X,), file, dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: X.numpy()})
    assert y.dtype == np.float32
    assert_same(torch.from_numpy(y), model)


def test_the_compiled_model_computes_the_same():
    torch.compiler.reset()
    model = compressed()
    with torch.no_grad():
        assert_same(torch.compile(model, fullgraph=True, backend="aot_eager")(X), model)
