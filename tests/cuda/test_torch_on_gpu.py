"""What only a GPU can show of the operations as a part of PyTorch: layers, autograd, autocast, opcheck and
torch.compile. Skipped where there is none."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from cnnkern import (
    ColumnSparseConv2d,
    CPConv2d,
    Im2colConv2d,
    Int8Conv2d,
    Int8Linear,
    PerforatedConv2d,
    ops,
    reference,
)
from tests.cuda.gpu_calls import CASE, OPERATIONS, WAIT, on_gpu, operation_on_gpu, same
from tests.ops.cases import Case
from tests.ops.masks import mask_of
from tests.ops.test_registration import DIFFERENTIABLE, require_gradient

pytestmark = pytest.mark.usefixtures("gpu")

LAYERS = {
    "dense": (Im2colConv2d, {}),
    "cp": (CPConv2d, {"rank": 24}),
    "columns": (ColumnSparseConv2d, {"columns": torch.arange(0, 144, 3)}),
    "perforated": (PerforatedConv2d, {"mask": mask_of(CASE, "half")}),
}


def layer_on_gpu(name: str) -> nn.Module:
    """One of LAYERS, or "int8"."""
    if name == "int8":
        return Int8Conv2d.from_conv(nn.Conv2d(16, 24, 3, padding=1), 0.05, 128).cuda()
    kind, own = LAYERS[name]
    return kind(16, 24, 3, padding=1, **own).cuda()


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_layers_compute_in_eval_mode(name: str, dtype: torch.dtype) -> None:
    kind, own = LAYERS[name]
    layer = kind(16, 24, 3, padding=1, **own).eval().to("cuda", dtype)
    x = torch.randn(2, 16, 9, 12, device="cuda", dtype=dtype)
    stock = layer.to_stock() if name == "perforated" else layer.to_conv()
    with torch.no_grad():
        y = layer(x)
        expected = stock.double()(x.double())
    eps = max(torch.finfo(dtype).eps, 2.0**-10)
    assert (y - expected).abs().max() <= 2 * 9 * eps * expected.abs().max() * 16


@pytest.mark.parametrize("out_scale", [None, 0.05])
@pytest.mark.parametrize("kind", [Int8Conv2d, Int8Linear])
def test_int8_layers_compute_what_they_do_on_the_cpu(kind: type[nn.Module], out_scale: float | None) -> None:
    """Of real numbers and of integers, and their state goes back and forth."""
    numbers = {"x_scale": 0.05, "x_zero_point": 120, "out_scale": out_scale, "out_zero_point": 99}
    if kind is Int8Conv2d:
        layer = kind.from_conv(nn.Conv2d(16, 24, 3, padding=1).eval(), **numbers)
    else:
        layer = kind.from_linear(nn.Linear(12, 24).eval(), **numbers)
    moved = deepcopy(layer).cuda()
    for x in (torch.randn(2, 16, 9, 12), torch.randint(256, (2, 16, 9, 12), dtype=torch.uint8)):
        for call in (moved, deepcopy(moved).train()):
            y = call(x.cuda())
            assert y.is_cuda
            assert torch.equal(y.cpu(), layer(x))
    layer.load_state_dict(moved.state_dict())
    assert torch.equal(moved.cpu()(x), layer(x))


def test_autograd_and_autocast() -> None:
    layer = Im2colConv2d(16, 24, 3, padding=1).cuda()
    x = torch.randn(2, 16, 9, 12, device="cuda", requires_grad=True)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert x.grad.shape == x.shape
    assert layer.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("name", ["columns", "perforated"])
def test_layers_train(name: str) -> None:
    kind, own = LAYERS[name]
    torch.manual_seed(0)
    layer = kind(16, 24, 3, padding=1, **own)
    copy = deepcopy(layer).cuda()
    x, grad = torch.randn(2, 16, 9, 12), torch.randn(2, 24, 9, 12)
    other, ours = x.double().requires_grad_(), x.cuda().requires_grad_()
    copy(ours).backward(grad.cuda())
    layer.double()(other).backward(grad.double())
    for got, expected in ((ours, other), (copy.weight, layer.weight), (copy.bias, layer.bias)):
        exact = expected.grad
        assert (got.grad.cpu() - exact).abs().max() <= 2.0**-10 * exact.abs().max() * 16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_cp_gradients_are_those_of_the_reference(
    dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    """What gradcheck would show, if there were kernels in float64: up to the rounding of each sum."""
    case = Case((3, 40, 29, 31), 136, (3, 5), stride=(2, 1), padding=(1, 2), dilation=(1, 2), rank=72)
    x, *rest = on_gpu(case.cp_arguments(), dtype)
    leaves = [t.requires_grad_() for t in (x.contiguous(memory_format=memory_format), *rest)]
    y = ops.cp_conv2d(*leaves, **case.options)
    grad = torch.randn_like(y)
    got = torch.autograd.grad(y, leaves, grad)
    eps = max(torch.finfo(dtype).eps, 2.0**-10)  # TF32 or not
    reference.assert_mixed_gradients_within_bound(
        got, reference.cp_conv2d, eps, grad, *leaves, **case.options
    )


@pytest.mark.parametrize("autocast", [False, True])
def test_a_training_step_lowers_the_loss(autocast: bool) -> None:
    torch.manual_seed(0)
    layer = CPConv2d(16, 24, 3, padding=1, rank=40).cuda()
    x, target = torch.randn(4, 16, 19, 17, device="cuda"), torch.randn(4, 24, 19, 17, device="cuda")
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.05)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=autocast):
            loss = nn.functional.mse_loss(layer(x).float(), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > losses[1] > losses[2]
    assert all(p.grad.isfinite().all() and p.grad.any() for p in layer.parameters())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", [*LAYERS, "int8"])
def test_captured_layers_follow_their_input(name: str, training: bool) -> None:
    layer = layer_on_gpu(name).train(training)
    x = torch.randn(2, 16, 9, 12, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad():
        layer(x)
        with torch.cuda.graph(graph):
            y = layer(x)
        x.copy_(torch.randn_like(x))
        graph.replay()
        assert torch.equal(y, layer(x))


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_wait_for_the_stream_of_the_forward_pass(name: str) -> None:
    layer = layer_on_gpu(name)
    x = torch.randn(2, 16, 9, 12, device="cuda", requires_grad=True)
    leaves = [x, *layer.parameters()]
    expected = torch.autograd.grad(layer(x).square().sum(), leaves)

    def late(grad: torch.Tensor) -> torch.Tensor:
        known = torch.zeros_like(grad)
        torch.cuda._sleep(WAIT)
        return known.copy_(grad)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        y = layer(x)
        y.register_hook(late)
        loss = y.square().sum()
    got = torch.autograd.grad(loss, leaves)
    torch.cuda.synchronize()
    assert same(got, expected)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_layers_compile_without_a_break(backend: str) -> None:
    if backend == "inductor":
        pytest.importorskip("triton")
    torch.manual_seed(0)
    kinds = [(kind, own) for name, (kind, own) in LAYERS.items() if name != "columns"]
    kinds.append((ColumnSparseConv2d, {"columns": torch.arange(0, 216, 3)}))
    layers = [kind(16 if i == 0 else 24, 24, 3, padding=1, **own) for i, (kind, own) in enumerate(kinds)]
    model = nn.Sequential(*layers).cuda()
    x = torch.randn(2, 16, 9, 12, device="cuda")
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    y = compiled(x)
    assert torch.equal(y, model(x))
    y.square().mean().backward()
    got = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model(x).square().mean().backward()
    assert all(map(torch.equal, got, (p.grad for p in model.parameters())))
    with torch.no_grad():
        assert torch.equal(torch.compile(model.eval(), fullgraph=True, backend=backend)(x), model(x))


@pytest.mark.parametrize("name", OPERATIONS)
def test_opcheck(name: str) -> None:
    operation, given = operation_on_gpu(name)
    checks = ["test_schema", "test_autograd_registration", "test_faketensor"]
    if name != "column_sparse_conv2d_pack":  # some of its integers are NaN as floats: equal to nothing
        checks.append("test_aot_dispatch_dynamic")
    torch.library.opcheck(operation, given, test_utils=checks)
    if name in DIFFERENTIABLE:
        torch.library.opcheck(operation, [require_gradient(argument) for argument in given])


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name.startswith("int8")])
def test_integers_are_the_same_under_autocast(name: str) -> None:
    """Scales, bias and what is quantized are taken for float32."""
    operation, given = operation_on_gpu(name)
    real = [isinstance(a, torch.Tensor) and a.is_floating_point() for a in given]
    short = [a.bfloat16() if is_real else a for a, is_real in zip(given, real, strict=True)]
    with torch.autocast("cuda"):
        y = operation(*short)
    assert torch.equal(y, operation(*(a.float() if r else a for a, r in zip(short, real, strict=True))))
