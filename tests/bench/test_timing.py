"""The harness: turns, medians, and no clock for a wrong result."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from bench import contests
from bench.layers import Layer
from bench.timing import BURST_SECONDS, Call, Timing, WrongResult, check, interleave, thread_count

SMALL = Layer("small", 5, 7, (3, 3), 9, 8, stride=2, padding=1, ranks=(4,))


@dataclass
class Scripted:
    """A contender whose bursts take what the script says; it writes down when it was asked."""

    name: str
    seconds: list[float]
    log: list[str] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)

    def output(self) -> torch.Tensor:
        raise NotImplementedError

    def burst(self, calls: int) -> float:
        self.log.append(self.name)
        self.calls.append(calls)
        return calls * self.seconds[min(len(self.calls), len(self.seconds)) - 1]


def test_timing_is_the_median_and_the_median_deviation():
    assert Timing.of([5.0, 1.0, 2.0, 100.0, 3.0]) == Timing(median=3.0, deviation=2.0, rounds=5)


def test_an_outlier_does_not_move_the_result():
    contender = Scripted("once slow", [1.0, 1.0, 900.0, 1.0])
    (timing,), _ = interleave([contender], seconds=0, min_rounds=5)
    assert timing.median == 1.0


def test_contenders_take_turns_and_the_ceiling_is_sampled_every_round():
    log = []
    pair = [Scripted("a", [1.0], log), Scripted("b", [2.0], log)]
    (a, b), ceiling = interleave(pair, seconds=0, min_rounds=4, beside=iter([7.0, 9.0, 8.0, 1.0]).__next__)
    rounds = log[2:]  # after one warm-up each
    assert [sorted(rounds[i : i + 2]) for i in range(0, len(rounds), 2)] == [["a", "b"]] * 4
    assert (a.median, b.median, ceiling) == (1.0, 2.0, 7.5)


def test_short_calls_are_timed_in_bursts():
    short = Scripted("short", [BURST_SECONDS / 20])
    (timing,), _ = interleave([short], seconds=0, min_rounds=1)
    assert short.calls == [1, 2, 20]  # two to warm up
    assert timing.median == pytest.approx(BURST_SECONDS / 20)


def test_long_calls_are_warmed_up_once():
    long = Scripted("long", [1.0])
    interleave([long], seconds=0, min_rounds=2)
    assert long.calls == [1, 1, 1]


def test_a_wrong_layer_is_refused():
    contest = contests.dense(SMALL, batch=2)
    contest.check()
    wrong = nn.Conv2d(SMALL.C, SMALL.K, SMALL.kernel, SMALL.stride, SMALL.padding)
    wrong.load_state_dict(contest.stock.state_dict())
    wrong.weight.data[3, 1, 2, 0] *= 1.001
    contest.contenders.append(Call("planted", lambda: wrong(contest.x)))
    with pytest.raises(WrongResult, match="planted: wrong by up to"):
        contest.check()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (torch.full((2, 3), float("nan")), "wrong by"),
        (torch.zeros(3, 2), r"shape \(3, 2\), expected \(2, 3\)"),
    ],
    ids=["nan", "shape"],
)
def test_nan_and_a_wrong_shape_are_refused(output: torch.Tensor, message: str):
    expected = torch.zeros(2, 3, dtype=torch.float64)
    with pytest.raises(WrongResult, match=message):
        check(Call("planted", lambda: output), expected, expected + 1)


def test_rounding_is_allowed_up_to_the_bound():
    expected = torch.ones(4, dtype=torch.float64)
    check(Call("rounded", lambda: torch.full((4,), 1 + 1e-7)), expected, torch.full((4,), 2e-7))


def test_every_layout_is_right():
    for contest in contests.contests(SMALL, batch=3):
        contest.check()
        assert {call.name for call in contest.contenders} == set(contests.FORWARD)


def test_the_gradients_of_a_training_step_are_right():
    contest = contests.training(SMALL, 4, batch=3)
    assert {call.name for call in contest.contenders} == set(contests.STEPS)
    contest.check()


def test_im2col_contenders_agree_exactly():
    contests.im2col(SMALL, batch=2).check()


def test_thread_count_is_put_back():
    before = torch.get_num_threads()
    with thread_count(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
