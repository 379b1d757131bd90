"""The layers train: their gradients, a compiled step, and a step shared between two processes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cnnkern.nn import ColumnSparseConv2d, CPConv2d, Im2colConv2d
from tests.nn.layers import ARGUMENTS, LAYERS, Layer, build, image

by_kind = pytest.mark.parametrize("kind", LAYERS)


@by_kind
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=ARGUMENTS)
def test_gradients_are_those_of_the_layer(
    kind: type[Layer], arguments: dict[str, Any], memory_format: torch.memory_format
) -> None:
    layer = build(kind, **arguments).double()
    names, parameters = zip(*layer.named_parameters(), strict=True)

    def call(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), x)

    x = image(layer, memory_format).requires_grad_()
    assert torch.autograd.gradcheck(call, (x, *parameters), fast_mode=True)


def network() -> nn.Module:
    """All layers, in float64, where the order of additions is beyond the default tolerance."""
    torch.manual_seed(0)
    sparse = ColumnSparseConv2d(8, 8, 3, padding=1, columns=range(0, 72, 3))
    layers = Im2colConv2d(3, 8, 3, padding=1), nn.ReLU(), sparse, nn.ReLU()
    return nn.Sequential(*layers, CPConv2d(8, 4, 3, stride=2, rank=5)).double()


def step(net: nn.Module, x: Tensor) -> None:
    """One step down the mean square of the output."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net(x).square().mean().backward()
    optimizer.step()


@pytest.fixture
def batch() -> Tensor:
    return torch.randn(4, 3, 9, 8, dtype=torch.float64)


@pytest.fixture
def trained(batch: Tensor) -> dict[str, Tensor]:
    """The parameters after a step."""
    net = network()
    step(net, batch)
    return {name: parameter.detach() for name, parameter in net.named_parameters()}


def test_a_step_is_that_of_the_stock_modules(batch: Tensor, trained: dict[str, Tensor]) -> None:
    net = network()
    dense, _, sparse, _, cp = net
    stock = nn.Sequential(dense.to_stock(), nn.ReLU(), sparse.to_stock(), nn.ReLU(), *cp.to_stock())
    step(stock, batch)
    stepped = list(stock.parameters())
    stepped[2] = stepped[2].flatten(1)[:, sparse.columns]  # the stock layer's zeros have gradients too
    for expected, parameter in zip(stepped, trained.values(), strict=True):
        torch.testing.assert_close(parameter.reshape(expected.shape), expected)


def test_a_compiled_step_is_the_same(batch: Tensor, trained: dict[str, Tensor]) -> None:
    torch.compiler.reset()
    net = network()
    step(torch.compile(net, fullgraph=True, backend="aot_eager"), batch)
    torch.testing.assert_close(dict(net.named_parameters()), trained)


def test_after_a_step_the_new_weights_are_used(batch: Tensor, trained: dict[str, Tensor]) -> None:
    net = network().eval()
    with torch.no_grad():
        before = net(batch)
    step(net, batch)
    with torch.no_grad():
        after = net(batch)
        expected = torch.func.functional_call(network().train(), trained, batch)
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, expected)


def worker(rank: int, folder: str, batch: Tensor) -> None:
    """One of two processes: a step on half of the batch."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    net = network()
    step(DistributedDataParallel(net), batch.chunk(2)[rank])
    torch.save(net.state_dict(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_make_the_step_of_one(
    tmp_path: Path, batch: Tensor, trained: dict[str, Tensor]
) -> None:
    torch.multiprocessing.spawn(worker, (str(tmp_path), batch), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, parameter in trained.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], parameter)
