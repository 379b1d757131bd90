"""What `make gpu` says of a record: every target always, and whether all of its contests were run."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bench.gpu_benchmarks import in_order
from bench.gpu_line import Line
from bench.gpu_record import ROOT
from bench.gpu_report import WIDTH, show
from bench.gpu_targets import TARGETS
from bench.layers import Layer, cp_work

STEPS = {"build": {"status": "passed", "seconds": 61.2, "output": "built\n"}}
PEAKS = {"bfloat16": 4e14, "tf32": 2e14, "int8": 8e14, "bandwidth": 4e12}


def work(
    suite: str, rank: int | None = None, flops: float = 4e9, dense_flops: float = 24e9
) -> dict[str, Any]:
    return {
        "suite": suite,
        "rank": rank,
        "batch": 16,
        "flops": flops,
        "dense_flops": dense_flops,
        "bytes": 10**6,
    }


def row(**seconds: float) -> dict[str, Any]:
    return {"seconds": {f"{who.replace('_', ' ')}/contiguous": value for who, value in seconds.items()}}


def record(contests: dict[str, dict], benchmarks: dict[str, dict]) -> dict[str, Any]:
    return {
        "environment": {"gpu": "a GPU"},
        "steps": STEPS,
        "peaks": PEAKS,
        "contests": contests,
        "benchmarks": benchmarks,
    }


def said_of(found: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines, with single spaces."""
    show(json.loads(json.dumps(found)))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= WIDTH
    return [" ".join(line.split()) for line in lines]


def target(lines: list[str], number: int) -> str:
    (line,) = (line for line in lines[-len(TARGETS) :] if f": {number} " in line)
    return line


def test_it_says_what_was_reached(capsys: pytest.CaptureFixture[str]) -> None:
    product = row(cnnkern=2.0, cnnkern_wgmma=1.25, torch=1.0)
    found = record(
        {
            "layer, R=8, batch 16, bfloat16": work("cp", 8),
            "other, R=8, batch 16, bfloat16": work("cp", 8),
            "small, R=8, batch 16, bfloat16": work("cp", 8, flops=9e8, dense_flops=3e9),
            "exact, R=8, batch 16, float32": work("cp", 8),
            "layer, rate 0.5, batch 16, bfloat16": work("perforated 0.5"),
            "point, rate 0.5, batch 16, bfloat16": work("perforated 0.5", dense_flops=4e9),
            "8 x 8 x 8, product, int8": work("int8 gemm"),
            "broken, dense, batch 1, tf32": work("dense"),
        },
        {
            "layer, R=8, batch 16, bfloat16": row(cnnkern=2e-5, cudnn=4e-5, cudnn_dense=6e-5),
            "other, R=8, batch 16, bfloat16": row(cnnkern=4e-5, cudnn=4e-5, cudnn_dense=2e-5),
            "small, R=8, batch 16, bfloat16": row(cnnkern=4e-5, cudnn=4e-5, cudnn_dense=2e-5),
            "exact, R=8, batch 16, float32": row(cnnkern=1, cudnn=9, cudnn_dense=1),
            "layer, rate 0.5, batch 16, bfloat16": row(cnnkern=1, cudnn=2, cnnkern_dense=5, cudnn_dense=3),
            "point, rate 0.5, batch 16, bfloat16": row(cnnkern=9, cudnn=2, cnnkern_dense=5, cudnn_dense=3),
            "8 x 8 x 8, product, int8": product | {"errors": {"torch/rows": "not supported"}},
            "broken, dense, batch 1, tf32": {"error": "out of bounds\nmore"},
        },
    )
    lines = said_of(found, capsys)
    assert "build: passed in 61 s: built" in lines
    assert "error: broken, dense, batch 1, tf32: out of bounds" in lines
    assert "error: 8 x 8 x 8, product, int8, torch/rows: not supported" in lines
    # ours, stock, x stock, roofline, x dense, FLOPs, even R, below
    assert "other, R=8, batch 16, bfloat16 40.0 40.0 1.00 25% 0.50 6.0 4 1,2,3" in lines
    assert "cp, batch 16, bfloat16: 3 of 3 1.26 0.91 19%" in lines
    assert "int8 gemm, int8: 1 of 1 0.50 0.80 1.60 0%" in lines
    assert "7 of 8 contests have a result; errors: 2" in lines
    assert target(lines, 1).startswith("not reached: 1 fused CP over cuDNN's four convolutions 1.5 ")
    assert target(lines, 1).endswith("geometric mean 1.26 3 of 3")
    assert target(lines, 2).endswith("1.0 in 1 of 2: 0.50 to 3.00 2 of 2")
    assert target(lines, 3).endswith("from 1 GFLOP in its own four stages 0.4 in 1 of 2: 0.25 to 0.50 2 of 2")
    assert target(lines, 4).startswith("reached: ")
    assert target(lines, 4).endswith("0.7 in 1 of 1: 0.83 to 0.83 1 of 1")
    assert target(lines, 5) == "not run: 5 dense over cuDNN 0.7 - 0 of 1"
    assert target(lines, 7).endswith("0.8 geometric mean 0.50 1 of 1")


@pytest.mark.parametrize(
    ("seconds", "missing", "verdict"),
    [(1.0, "absent", "incomplete"), (1.0, "error", "incomplete"), (9.0, "absent", "not reached")],
)
def test_what_was_run_in_part_is_not_reached_yet(
    capsys: pytest.CaptureFixture[str], seconds: float, missing: str, verdict: str
) -> None:
    keys = ["a, R=8, batch 16, tf32", "b, R=8, batch 16, tf32", "c, R=8, batch 16, tf32"]
    benchmarks = dict.fromkeys(keys[:2], row(cnnkern=seconds, cudnn=2, cudnn_dense=2))
    if missing == "error":
        benchmarks[keys[2]] = {"error": "wrong"}
    lines = said_of(record(dict.fromkeys(keys, work("cp", 8)), benchmarks), capsys)
    for number in (1, 2):
        assert target(lines, number).startswith(f"{verdict}: {number} ")
        assert target(lines, number).endswith(" 2 of 3")


def test_a_share_of_the_roofline_needs_its_peaks(capsys: pytest.CaptureFixture[str]) -> None:
    key = "a, R=8, batch 16, tf32"
    found = record({key: work("cp", 8)}, {key: row(cnnkern=1e-5, cudnn=2e-5, cudnn_dense=2e-5)})
    found["peaks"] = {"bandwidth": 4e12}
    assert target(said_of(found, capsys), 3).startswith("not run: 3 ")


def test_every_target_has_a_line_whatever_was_run(capsys: pytest.CaptureFixture[str]) -> None:
    contests = {contest.key: asdict(contest.work) for contest in in_order(wgmma=True)}
    lines = said_of(record(contests, {}), capsys)
    for number in range(1, len(TARGETS) + 1):
        assert target(lines, number).startswith(f"not run: {number} ")
        assert target(lines, number).rsplit(" ", 1)[1] in ("78", "72", "34", "50", "39", "5")
    nothing = said_of({"environment": {}, "steps": {}, "benchmarks": {}}, capsys)  # as of a failed build
    assert all(target(nothing, number).endswith(" - -") for number in range(1, len(TARGETS) + 1))


def test_the_many_flops_are_those_of_the_four_stages_for_the_whole_batch() -> None:
    layer = Layer("small", 8, 12, (3, 5), 9, 7, padding=1, ranks=(4,))
    (oH, oW), rank, batch = layer.output_size, 4, 16
    # each output of a stage, times what is added up in it
    stages = rank * 9 * 7 * 8, rank * oH * 7 * 3, rank * oH * oW * 5, 12 * oH * oW * rank
    line = Line("small, R=4, batch 16, tf32", asdict(cp_work(layer, rank, batch)), {}, {})
    assert line.work["flops"] == batch * 2 * sum(stages)


def test_the_record_of_another_machine_is_printed(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps(record({}, {})))
    command = (sys.executable, "-m", "bench.gpu_report", str(path))
    assert "not run:" in subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
