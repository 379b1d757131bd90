"""The grid of an activation in training: straight-through gradients, learned and observed ranges."""

import pytest
import torch

from cnnkern.quantization import MinMax
from cnnkern.quantization.quantizer import Mode, Quantizer


def simulating(low: float, high: float, dtype: torch.dtype = torch.uint8) -> Quantizer:
    quantizer = Quantizer(MinMax(), dtype)
    quantizer.set_range(low, high)
    quantizer.mode = Mode.SIMULATE
    return quantizer


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8], ids=str)
def test_training_and_eval_agree(dtype: torch.dtype) -> None:
    quantizer = simulating(-1.0, 2.0, dtype)
    x = 2 * torch.randn(1000)
    assert torch.equal(quantizer(x), quantizer.eval()(x))
    assert quantizer(x).unique().numel() <= 256


def test_the_gradient_goes_straight_through_within_the_range() -> None:
    quantizer = simulating(-1.0, 2.0)
    x = torch.linspace(-3, 4, 50, requires_grad=True)
    gradient = torch.randn(50)
    quantizer(x).backward(gradient)
    grid = quantizer.grid()
    within = (x >= grid.low - grid.scale / 2) & (x <= grid.high + grid.scale / 2)
    assert torch.equal(x.grad, gradient * within)


def test_the_gradient_of_a_learned_scale_is_that_of_lsq() -> None:
    quantizer = simulating(-1.0, 2.0)
    quantizer.learn()
    x = 2 * torch.randn(4, 50)
    gradient = torch.randn(4, 50)
    quantizer(x).backward(gradient)
    scale, z = quantizer.grid().scale, int(quantizer.zero_point)
    steps = x / scale
    slope = torch.where(
        steps.round() < -z, -z, torch.where(steps.round() > 255 - z, 255 - z, steps.round() - steps)
    )
    expected = (gradient * slope).sum() * scale  # of the scale's logarithm
    torch.testing.assert_close(quantizer.log_scale.grad, expected, rtol=1e-5, atol=1e-5)


def test_half_precision_activations_lose_nothing_in_it() -> None:
    """What autocast gives: the rounding's remainders are smaller than a step of bfloat16."""
    x, gradient = 2 * torch.randn(4, 500, dtype=torch.bfloat16), torch.randn(4, 500)
    gradients = []
    for each in (x, x.float()):
        quantizer = simulating(-1.0, 2.0)
        quantizer.learn()
        quantizer(each).backward(gradient)
        gradients.append(quantizer.log_scale.grad)
    assert torch.equal(*gradients)


def test_a_scale_that_was_learned_stays_whatever_the_optimizer_does() -> None:
    quantizer = simulating(-1.0, 2.0)
    quantizer.learn()
    optimizer = torch.optim.SGD(quantizer.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1)
    for step in range(4):
        if step == 2:
            quantizer.hold()
            grid = quantizer.grid()
        optimizer.zero_grad(set_to_none=False)
        quantizer(torch.randn(100)).square().sum().backward()
        optimizer.step()
    assert quantizer.log_scale.grad == 0
    assert quantizer.grid() == grid
    other = simulating(-1.0, 1.0)
    other.learn()
    other.load_state_dict(quantizer.state_dict())
    assert other.grid() == grid


def test_a_learned_scale_finds_the_range() -> None:
    quantizer = simulating(-0.1, 0.1)
    quantizer.learn()
    optimizer = torch.optim.Adam([quantizer.log_scale], lr=0.05)
    x = torch.randn(64, 100)
    before = (quantizer(x) - x).square().mean().item()
    for _ in range(100):
        optimizer.zero_grad()
        (quantizer(x) - x).square().mean().backward()
        optimizer.step()
    assert (quantizer(x) - x).square().mean() < before / 20


def test_a_scale_stays_positive_whatever_the_optimizer_does() -> None:
    quantizer = simulating(-1.0, 1.0)
    quantizer.learn()
    with torch.no_grad():
        quantizer.log_scale.fill_(-1e4)
    x = torch.randn(10, requires_grad=True)
    y = quantizer(x)
    y.sum().backward()
    assert torch.isfinite(y).all()
    assert torch.isfinite(x.grad).all()
    assert quantizer.grid().scale > 0


def test_observed_ranges_follow_in_training_alone() -> None:
    quantizer = simulating(-1.0, 1.0)
    quantizer.follow(rate=0.5)
    quantizer(torch.tensor([-3.0, 3.0]))
    # the range was [-1, 1] up to the rounding of the zero point
    assert quantizer.grid().high == pytest.approx(2, abs=0.03)
    quantizer.eval()(torch.tensor([-50.0, 50.0]))
    assert quantizer.grid().high == pytest.approx(2, abs=0.03)
    quantizer.train()
    quantizer.hold()
    quantizer(torch.tensor([-50.0, 50.0]))
    assert quantizer.grid().high == pytest.approx(2, abs=0.03)


def test_a_ceiling_is_not_exceeded() -> None:
    quantizer = Quantizer(MinMax(), ceiling=6.0)
    quantizer.set_range(0.0, 100.0)
    assert quantizer.grid().high == pytest.approx(6)
    quantizer.learn()
    with torch.no_grad():
        quantizer.log_scale.add_(3)
    assert quantizer.grid().high == pytest.approx(6)
