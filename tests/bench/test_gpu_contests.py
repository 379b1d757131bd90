"""The contests of `make gpu` check, run and record every contender; the CPU stands in for the GPU."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bench import gpu_benchmarks, graph_timing
from bench.gpu_benchmarks import in_order
from bench.gpu_contests import Contest, SparseContest
from bench.gpu_int8 import Int8Contest, Int8ProductContest
from bench.gpu_record import BENCHMARKS_DIGEST, IDENTITY, TESTS_DIGEST, WGMMA, Record
from bench.graph_timing import CapturedCall
from bench.layers import Layer
from cnnkern import _C, Im2colConv2d

LAYER = Layer("small", 8, 12, (3, 3), 9, 7, padding=1, ranks=(4,))
BOTH = ("contiguous", "channels_last")


class OnCpu(TorchFunctionMode):
    """Tensors that are asked for on a GPU are made on the CPU."""

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        if function is Tensor.cuda:
            return args[0]
        named = {name: _moved(value) for name, value in (kwargs or {}).items()}
        return function(*map(_moved, args), **named)


def _moved(value: Any) -> Any:
    return torch.device("cpu") if isinstance(value, str | torch.device) and "cuda" in str(value) else value


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def of(name: str, call: Callable[[], Tensor]) -> CapturedCall:
        return CapturedCall(name, None, call, call())

    monkeypatch.setattr(graph_timing.CapturedCall, "of", of)
    monkeypatch.setattr(graph_timing.CapturedCall, "milliseconds", lambda call, _: call.call().numel())
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    settings = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = [each.fp32_precision for each in settings]
    yield
    for each, precision in zip(settings, before, strict=True):
        each.fp32_precision = precision


@pytest.mark.parametrize(
    ("contest", "who"),
    [
        (Contest(LAYER, None, 2, "tf32", wgmma=True), {"cnnkern", "cudnn", WGMMA}),
        (Contest(LAYER, None, 2, "float32", wgmma=True), {"cnnkern", "cudnn"}),
        (Contest(LAYER, 4, 2, "float32"), {"cnnkern", "cudnn", "cudnn dense"}),
        (
            SparseContest(LAYER, 0.25, None, 2, "float32"),
            {"cnnkern", "cnnkern dense", "cudnn", "cudnn dense"},
        ),
        (
            SparseContest(LAYER, None, 0.5, 2, "float32"),
            {"cnnkern", "cnnkern dense", "cudnn", "cudnn dense"},
        ),
    ],
    ids=lambda value: getattr(value, "key", ""),
)
def test_every_contender_runs_on_both_layouts(contest: Contest | SparseContest, who: set[str]) -> None:
    with OnCpu():
        found = contest.run(torch.empty(0))
    assert found["seconds"].keys() == {f"{each}/{layout}" for each in who for layout in BOTH}
    assert "errors" not in found
    assert contest.work.flops > 0
    assert _C.cuda_core() == "mma"


def test_integers_run_on_both_layouts_beside_real_numbers() -> None:
    with OnCpu():
        found = Int8Contest(LAYER, 2, wgmma=True).run(torch.empty(0))
        product = Int8ProductContest(8, 16, 32).run(torch.empty(0))
    ours = {f"{each}/{layout}" for each in ("cnnkern", WGMMA) for layout in BOTH}
    assert found["seconds"].keys() == {"cudnn/channels_last", *ours}
    assert product["seconds"].keys() == {"torch/columns", "torch/rows", "cnnkern/packed"}


@pytest.mark.parametrize(
    "contest",
    [
        Contest(LAYER, None, 2, "tf32"),
        Contest(LAYER, 4, 2, "float32"),
        SparseContest(LAYER, 0.25, None, 2, "float32"),
        SparseContest(LAYER, None, 0.5, 2, "tf32"),
        Int8Contest(LAYER, 2),
        Int8ProductContest(8, 16, 32),
    ],
    ids=lambda contest: contest.key,
)
def test_every_contest_has_the_contenders_that_it_names(contest: gpu_benchmarks.Contest) -> None:
    with OnCpu():
        names = [call.name for call in contest.calls()[0]]
    assert len(set(contest.contenders)) == len(contest.contenders)
    assert set(names) - {"torch/rows"} == set(contest.contenders)  # which cuBLAS does not have everywhere


def test_a_stock_product_may_use_tf32_where_convolutions_may() -> None:
    for arithmetic, precision in {"tf32": "tf32", "float32": "ieee"}.items():
        with OnCpu():
            SparseContest(LAYER, None, 0.5, 2, arithmetic).calls()
        assert torch.backends.cudnn.conv.fp32_precision == precision
        assert torch.backends.cuda.matmul.fp32_precision == precision


def test_the_plan_is_in_the_record_before_the_first_contest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = dict.fromkeys((*IDENTITY, TESTS_DIGEST, BENCHMARKS_DIGEST), "here")
    contest = Contest(LAYER, 4, 2, "tf32")
    monkeypatch.setattr(gpu_benchmarks, "environment", lambda: environment)
    monkeypatch.setattr(gpu_benchmarks, "wgmma_works", lambda _: False)
    monkeypatch.setattr(gpu_benchmarks, "in_order", lambda *, wgmma: [contest])

    def fail() -> Tensor:
        raise RuntimeError("no GPU")

    monkeypatch.setattr(graph_timing, "flushing_buffer", fail)
    with pytest.raises(RuntimeError, match="no GPU"):
        gpu_benchmarks.main(tmp_path / "gpu.json", 10)
    assert Record(tmp_path / "gpu.json", environment).found["contests"] == {contest.key: asdict(contest.work)}


def test_a_wrong_result_ends_the_contest_but_for_one_of_wgmma(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Im2colConv2d.forward
    wrong = {"wgmma"}
    monkeypatch.setattr(Im2colConv2d, "forward", lambda layer, x: right(layer, x) + (_C.cuda_core() in wrong))
    with OnCpu():
        found = Contest(LAYER, None, 2, "tf32", wgmma=True).run(torch.empty(0))
        assert found["seconds"].keys() == {
            f"{who}/{layout}" for who in ("cnnkern", "cudnn") for layout in BOTH
        }
        assert found["errors"].keys() == {f"{WGMMA}/{layout}" for layout in BOTH}
        wrong.add("mma")
        with pytest.raises(AssertionError):
            Contest(LAYER, None, 2, "tf32").run(torch.empty(0))


def test_every_contest_has_a_key_of_its_own() -> None:
    keys = [contest.key for contest in in_order(wgmma=True)]
    assert len(set(keys)) == len(keys) > 90


def test_the_benchmarks_are_collected_without_a_gpu() -> None:
    from bench import test_gpu

    arithmetics = {"bfloat16", "tf32", "float16", "float32", "int8"}
    assert {contest.arithmetic for contest in test_gpu.CONTESTS.values()} == arithmetics
    assert ("ResNet stage 1, R=48, batch 64, tf32", "cudnn dense/channels_last") in test_gpu.CALLS
