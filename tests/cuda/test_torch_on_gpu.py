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
from tests.cuda.gpu_calls import CASE, int8_on_gpu, on_gpu
from tests.ops.cases import Case
from tests.ops.masks import mask_of

pytestmark = pytest.mark.usefixtures("gpu")

LAYERS = {
    "dense": (Im2colConv2d, {}),
    "cp": (CPConv2d, {"rank": 24}),
    "columns": (ColumnSparseConv2d, {"columns": torch.arange(0, 144, 3)}),
    "perforated": (PerforatedConv2d, {"mask": mask_of(CASE, "half")}),
}


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


@pytest.mark.parametrize("name", ["conv2d", "cp_conv2d", "im2col"])
def test_opcheck(name: str) -> None:
    given = CASE.cp_arguments() if name == "cp_conv2d" else CASE.conv2d_arguments()
    tensors = [t.requires_grad_() for t in on_gpu(given, torch.float32)]
    pairs = [list(CASE.stride), list(CASE.padding), list(CASE.dilation)]
    arguments = {
        "conv2d": (*tensors, *pairs, CASE.groups, False),
        "cp_conv2d": (*tensors, *pairs, CASE.groups),
        "im2col": (tensors[0], list(CASE.kernel), *pairs),
    }
    torch.library.opcheck(getattr(torch.ops.cnnkern, name).default, arguments[name])


def test_opcheck_of_gradients_and_packing() -> None:
    x, weight, _ = on_gpu(CASE.conv2d_arguments(), torch.float32)
    _, *factors, _ = on_gpu(CASE.cp_arguments(), torch.float32)
    grad = torch.randn_like(ops.conv2d(x, weight, **CASE.options))
    rest = [list(CASE.stride), list(CASE.padding), list(CASE.dilation), CASE.groups]
    _, sparse, columns, _ = CASE.column_sparse_arguments()
    sparse, columns, kernel = sparse.cuda(), columns.cuda(), list(CASE.kernel)
    mask = mask_of(CASE, "half").cuda()
    for name, given in {
        "conv2d_pack": (weight, CASE.groups),
        "conv2d_backward": (grad, x, weight, *rest, [True] * 3),
        "cp_conv2d_pack": (*factors, CASE.groups),
        "cp_conv2d_backward": (grad, x, *factors, *rest, [True] * 6),
        "column_sparse_conv2d_backward": (grad, x, sparse, columns, kernel, *rest, [True] * 3),
        "perforated_conv2d_backward": (grad, x, weight, mask, *rest, True, [True] * 3),
    }.items():
        torch.library.opcheck(getattr(torch.ops.cnnkern, name).default, given)


def test_opcheck_of_integers() -> None:
    (x, weight, bias), options = int8_on_gpu(CASE)
    numbers = options["weight_scale"], options["x_scale"], options["x_zero_point"], 10.0, 7
    arguments = (x, weight, bias, *numbers, *map(list, (CASE.stride, CASE.padding, CASE.dilation)), 1, True)
    torch.library.opcheck(torch.ops.cnnkern.int8_conv2d.default, arguments)
    with torch.autocast("cuda"):
        y = torch.ops.cnnkern.int8_conv2d(*arguments)
    assert torch.equal(y, torch.ops.cnnkern.int8_conv2d(*arguments))


@pytest.mark.parametrize("kind", ["half", "each image"])
def test_opcheck_of_sparse_operations(kind: str) -> None:
    x, weight, bias = on_gpu(CASE.conv2d_arguments(), torch.float32)
    mask = mask_of(CASE, kind).cuda()
    _, sparse, columns, _ = CASE.column_sparse_arguments()
    pairs = [list(CASE.stride), list(CASE.padding), list(CASE.dilation)]
    steps = [*CASE.weight_size, *CASE.stride, *CASE.padding, *CASE.dilation, CASE.groups]
    sparse, columns, kernel = sparse.cuda(), columns.cuda(), list(CASE.kernel)
    operations = torch.ops.cnnkern
    packed = operations.column_sparse_conv2d_pack(sparse, columns, kernel, CASE.groups)
    arranged = operations.perforated_conv2d_arrange(mask, True)
    dense = operations.conv2d_pack(weight, CASE.groups)
    for name, given in {
        "column_sparse_conv2d": (x, sparse, columns, bias, kernel, *pairs, CASE.groups),
        "column_sparse_conv2d_pack": (sparse, columns, kernel, CASE.groups),
        "column_sparse_conv2d_packed": (x, packed, bias, steps, columns),
        "perforated_conv2d": (x, weight, mask, bias, *pairs, CASE.groups, True),
        "perforated_conv2d_arrange": (mask, True),
        "perforated_conv2d_packed": (x, dense, bias, steps, arranged),
        "perforated_conv2d_sources": (mask, False),
    }.items():
        torch.library.opcheck(getattr(operations, name).default, given)
