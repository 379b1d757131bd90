"""Quantization-aware training: batch norms, ranges, and what training brings."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnkern import quantization
from cnnkern.folding import fold_batch_norm
from tests.quantization.networks import Mobile, Residual, trained


def steps(model: nn.Module, x: Tensor, targets: Tensor, count: int, rate: float = 0.02) -> list[float]:
    """The losses of some steps of plain gradient descent."""
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    losses = []
    for _ in range(count):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("ranges", ["learned", "observed"])
def test_training_makes_the_int8_model_better(ranges: str) -> None:
    network, x = trained(Residual)
    targets = torch.randn(len(x), 5)
    prepared = quantization.prepare(network, [x], ranges=ranges)
    before = prepared.convert().model
    losses = steps(prepared, x, targets, 30)
    prepared.freeze_batch_norm()
    prepared.hold_ranges()
    losses += steps(prepared, x, targets, 10)
    after = prepared.convert().model
    assert losses[-1] < losses[0]
    with torch.no_grad():
        assert F.mse_loss(after(x), targets) < 0.8 * F.mse_loss(before(x), targets)


def test_ranges_learn_or_follow_or_stay() -> None:
    network, x = trained(Residual)
    for ranges in ("learned", "observed"):
        prepared = quantization.prepare(network, [x], ranges=ranges)
        grids = [quantizer.grid() for quantizer in prepared.quantizers.values()]
        assert len(prepared.range_parameters()) == (len(grids) if ranges == "learned" else 0)
        steps(prepared, 2 * x, torch.randn(len(x), 5), 3)
        moved = [quantizer.grid() for quantizer in prepared.quantizers.values()]
        assert all(one != other for one, other in zip(grids[1:], moved[1:], strict=True))
        prepared.hold_ranges()
        assert prepared.range_parameters() == []
        steps(prepared, x, torch.randn(len(x), 5), 2)
        assert [quantizer.grid() for quantizer in prepared.quantizers.values()] == moved


def test_batch_norms_count_until_they_are_frozen() -> None:
    network, x = trained(Residual)
    prepared = quantization.prepare(network, [x])
    norm = prepared.layers()["blocks.0.conv1"].norm
    before = norm.running_mean.clone()
    prepared(x)
    assert not torch.equal(norm.running_mean, before)
    prepared.freeze_batch_norm()
    before = norm.running_mean.clone()
    prepared(2 * x).sum().backward()
    assert torch.equal(norm.running_mean, before)
    assert norm.weight.grad.abs().max() > 0  # its parameters are trained on


def test_a_frozen_batch_norm_trains_what_eval_computes() -> None:
    """But for the rounding of float32 sums, which now and then makes an integer one more or less."""
    network, x = trained(Residual)
    prepared = quantization.prepare(network, [x])
    prepared.freeze_batch_norm()
    with torch.no_grad():
        training, exact = prepared(x), prepared.eval()(x)
    assert (training - exact).abs().max() < 0.02 * exact.abs().max()


def test_weights_may_be_rounded_before_the_norm_s_factor_or_after() -> None:
    network, _ = trained(lambda: nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)))
    folded = fold_batch_norm(network)
    factor = folded[0].weight / network[0].weight
    before, after = (
        quantization.dequantize_weight(*quantization.quantize_weight(conv.weight))
        for conv in (network[0], folded[0])
    )
    torch.testing.assert_close(before * factor, after)


def test_dropout_is_on_in_training_and_gone_after() -> None:
    network, x = trained(Mobile)
    prepared = quantization.prepare(network, [x])
    with torch.no_grad():
        assert not torch.equal(prepared(x), prepared(x))
        model = prepared.convert().model.train()
        assert torch.equal(model(x), model(x))


def test_a_prepared_model_can_be_copied_and_loaded() -> None:
    network, x = trained(Residual)
    prepared = quantization.prepare(network, [x])
    other = quantization.prepare(network, [torch.rand_like(x)])
    steps(prepared, x, torch.randn(len(x), 5), 2)
    copied = copy.deepcopy(prepared)
    other.load_state_dict(prepared.state_dict())
    with torch.no_grad():
        expected = prepared.eval()(x)
        assert torch.equal(copied.eval()(x), expected)
        assert torch.equal(other.eval()(x), expected)
    assert copied.layers()["head"].inputs[0] in copied.quantizers.values()


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of one."""
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("ranges", ["learned", "observed"])
@pytest.mark.usefixtures("alone")
def test_it_is_trained_by_several_processes(ranges: str) -> None:
    """Each step waits for the gradient of every parameter that had one at the start."""
    network, x = trained(Residual)
    prepared = quantization.prepare(network, [x], ranges=ranges)
    distributed, targets = nn.parallel.DistributedDataParallel(prepared), torch.randn(len(x), 5)
    steps(distributed, x, targets, 2)
    prepared.freeze_batch_norm()
    prepared.hold_ranges()
    steps(distributed, x, targets, 2)


def test_it_is_trained_and_asked_under_autocast() -> None:
    network, x = trained(Residual)
    prepared = quantization.prepare(network, [x])
    with torch.autocast("cpu", torch.bfloat16):
        losses = steps(prepared, x, torch.randn(len(x), 5), 3)
        prepared.eval()
        with torch.no_grad():
            assert torch.equal(prepared(x), prepared.convert().model(x))
    assert losses[-1] < losses[0]


def test_other_ranges_are_refused() -> None:
    with pytest.raises(ValueError, match="ranges: expected 'learned' or 'observed', got 'fixed'"):
        quantization.prepare(nn.Linear(2, 2), [torch.randn(3, 2)], ranges="fixed")
