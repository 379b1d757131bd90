"""Layers and parts are timed in the model's own run, which ends there, and leaves nothing behind."""

import pytest
import torch
from torch import Tensor, nn

from cnnkern import Im2colConv2d
from cnnkern.compression import in_place
from cnnkern.compression.in_place import times_between, times_in_place
from cnnkern.compression.running import inference
from tests.compression.nets import chain

X = torch.randn(2, 3, 12, 12)


def test_the_model_is_afterwards_what_it_was():
    model = chain().eval()
    before = list(model.modules())
    with inference(model):
        conv, layer = model[2], Im2colConv2d.from_conv(model[2]).eval()
        times = times_in_place([(model, conv, conv), (model, conv, layer)], X, 1e-3)
    assert len(times) == 2
    assert min(times) > 0
    assert list(model.modules()) == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_what_comes_behind_the_layer_is_not_run():
    model = chain().eval()
    model[4].register_forward_pre_hook(lambda *_: 1 / 0)
    with inference(model):
        assert min(times_in_place([(model, model[2], model[2])], X, 1e-3)) > 0


class Reads(nn.Module):
    """A model that uses more of its convolution than its call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x * self.conv.weight.norm())


def test_a_layer_with_which_the_model_fails_has_the_error():
    model = Reads().eval()
    with inference(model):
        contenders = [(model, model.conv, layer) for layer in (model.conv, nn.Identity())]
        own, failed = times_in_place(contenders, X, 1e-3)
    assert own > 0
    assert isinstance(failed, AttributeError)


class Time:
    """A clock that goes on where a module says so."""

    now = 0.0

    def mark(self) -> float:
        return self.now

    def seconds(self, begin: float, end: float) -> float:
        return end - begin

    def finish(self) -> None:
        pass


class Takes(nn.Module):
    def __init__(self, clock: Time, seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds, self.calls = clock, seconds, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.clock.now += self.seconds
        return x


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    clock = Time()
    monkeypatch.setattr(in_place, "clock_of", lambda device: clock)
    return clock


def test_a_part_of_a_run_is_timed_from_the_first_call_until_all_were_called(clock: Time):
    relu = nn.ReLU()  # called before as well
    models = [
        nn.Sequential(
            Takes(clock, 64), relu, Takes(clock, each), Takes(clock, 8), relu, Takes(clock, 16)
        ).eval()
        for each in (1, 2)
    ]
    with inference(nn.ModuleList(models)):
        assert times_between(models, X, ["2"], ["2", "1"], 1e-3) == [9, 10]
    assert all(model[0].calls and not model[5].calls for model in models)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in nn.ModuleList(models).modules())


def test_a_part_of_a_run_that_does_not_end_lasts_until_the_run_does(clock: Time):
    model = nn.Sequential(nn.ReLU(), Takes(clock, 4)).eval()
    unused = nn.Sequential(model, nn.Identity()).eval()
    unused.forward = model.forward
    with inference(unused):
        assert times_between([unused], X, ["0.0"], ["0.0", "1"], 1e-3) == [4]
