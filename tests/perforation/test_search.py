"""The greedy choice takes the cheapest loss for the time, and stops where it was told."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cnnkern import PerforatedConv2d, perforation


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))


def masks(layer: str, rate: float) -> Tensor:
    return perforation.uniform((8, 8), rate)


def rate_of(module: nn.Module) -> float:
    return 1 - module.mask.float().mean().item() if isinstance(module, PerforatedConv2d) else 0.0


def seconds(model: nn.Module) -> float:
    """As if time fell in proportion, and layer 2 took twice that of layer 0."""
    return 3 - rate_of(model[0]) - 2 * rate_of(model[2])


def loss(model: nn.Module) -> float:
    return rate_of(model[0]) ** 2 + 3 * rate_of(model[2]) ** 2


def choose(**arguments: Any) -> perforation.RateChoice:
    options = {"masks": masks, "evaluate": loss, "measure": seconds, "verbose": False, **arguments}
    return perforation.choose_rates(network(), rates=(0.75, 0.5), **options)


def test_each_step_takes_the_least_loss_for_the_time_it_saves() -> None:
    choice = choose(max_loss=10.0)
    # loss per second: 0.5 for layer 0 and 0.75 for layer 2, then 1.25 and 1.875
    assert [(step.layer, step.rate) for step in choice.steps] == [
        ("0", 0.5),
        ("2", 0.5),
        ("0", 0.75),
        ("2", 0.75),
    ]
    assert choice.rates == {"0": 0.75, "2": 0.75}
    assert [step.loss for step in choice.steps] == pytest.approx([0.25, 1.0, 1.3125, 2.25])
    assert choice.speedup == pytest.approx(3 / 0.75)
    assert rate_of(choice.model[0]) == rate_of(choice.model[2]) == 0.75


def test_it_stops_at_the_speedup_or_before_the_loss_is_too_great() -> None:
    assert choose(speedup=1.5).rates == {"0": 0.5, "2": 0.5}
    assert choose(max_loss=0.9).rates == {"0": 0.75, "2": 0.0}
    assert choose(max_loss=0.1).steps == ()


def test_what_saves_no_time_is_not_taken() -> None:
    choice = choose(measure=lambda model: 3 - rate_of(model[0]) + rate_of(model[2]), max_loss=10.0)
    assert choice.rates == {"0": 0.75, "2": 0.0}


def test_a_rate_that_saves_no_time_is_passed_over() -> None:
    choice = choose(measure=lambda model: 3 - (rate_of(model[0]) > 0.6), speedup=1.2)
    assert [(step.layer, step.rate) for step in choice.steps] == [("0", 0.75)]


def test_what_was_taken_is_measured_anew() -> None:
    measured: list[nn.Module] = []

    def measure(model: nn.Module) -> float:
        """A tenth of a second too short, where a network comes for the first time."""
        measured.append(model)
        return seconds(model) - (sum(each is model for each in measured) == 1) / 10

    choice = choose(measure=measure, max_loss=10.0)
    rates = {"0": 0.0, "2": 0.0}
    for step in choice.steps:
        rates[step.layer] = step.rate
        assert step.seconds == pytest.approx(3 - rates["0"] - 2 * rates["2"])
    assert rates == {"0": 0.75, "2": 0.75}


def test_the_model_is_not_changed_and_the_rest_is_copied() -> None:
    model = network().train()
    choice = perforation.choose_rates(
        model, ["2"], masks=masks, evaluate=loss, measure=seconds, speedup=1.2, verbose=False
    )
    assert isinstance(model[2], nn.Conv2d)
    assert type(choice.model[0]) is nn.Conv2d
    assert isinstance(choice.model[2], PerforatedConv2d)
    assert choice.model[0] is not model[0]
    assert all(module.training for module in choice.model.modules())
    assert torch.equal(choice.model[2].weight, model[2].weight)


def test_a_call_is_measured() -> None:
    assert 0 < perforation.seconds_of(torch.randn(1, 3, 8, 8), calls=3)(network()) < 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "speedup, max_loss: expected at least one"),
        ({"rates": (0.5, 1.0), "speedup": 2.0}, "rates: expected numbers between 0 and 1"),
        ({"rates": (), "speedup": 2.0}, "rates: expected numbers between 0 and 1"),
        ({"layers": ["1"], "speedup": 2.0}, "layers: expected names"),
    ],
)
def test_a_search_that_cannot_be_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        perforation.choose_rates(network(), masks=masks, evaluate=loss, measure=seconds, **arguments)


@pytest.mark.parametrize("mask", [torch.ones(8, 8), [[True]]], ids=["dtype", "list"])
def test_a_mask_of_something_else_is_refused(mask: Any) -> None:
    with pytest.raises(TypeError, match=r"masks: expected a tensor of torch.bool for '0', got"):
        perforation.convert(network(), {"0": mask})


def test_a_mask_that_keeps_all_leaves_its_layer() -> None:
    model = network()
    converted = perforation.convert(model, {"0": torch.ones(8, 8).bool(), "2": masks("2", 0.5)})
    assert type(converted[0]) is nn.Conv2d
    assert isinstance(converted[2], PerforatedConv2d)
