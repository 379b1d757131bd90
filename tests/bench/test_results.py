"""Ratios, summaries, and the file that keeps them."""

import io
import json
import math

import pytest
import torch
from rich.console import Console

from bench.__main__ import REPORT_WIDTH, _files, parser, settings_of
from bench.compare import Settings, compare
from bench.layers import DENSITIES, LAYERS, Layer, column_sparse_work, cp_work, perforated_work, training_work
from bench.report import show
from bench.results import RESULTS, Results, Row, Run, machine_slug, summarize
from bench.timing import Timing

SMALL = Layer("small", 4, 6, (3, 3), 6, 6, padding=1, ranks=(2,))
DENSE = Layer("dense only", 4, 6, (1, 1), 6, 6)


def run(torch_seconds: float, ours: float, *, dense: float | None = None, **more: float) -> Run:
    seconds = {
        "torch/contiguous": 2 * torch_seconds,
        "torch/channels_last": torch_seconds,
        "cnnkern/contiguous": 4 * ours,
        "cnnkern/channels_last": ours,
    } | more
    return Run({name: Timing(value, value / 10, 5) for name, value in seconds.items()}, 100.0, 20.0, dense)


def row(*runs: Run) -> Row:
    return Row.of(cp_work(SMALL, 2, batch=1), 1, list(runs))


def test_ratios_are_against_the_best_layout():
    ratios = run(6.0, 2.0, dense=30.0, onnxruntime=5.0).ratios()
    assert ratios == {
        "contiguous": 0.75,
        "channels_last": 3.0,
        "best": 3.0,
        "onnxruntime": 2.5,
        "over_dense": 15.0,
    }


def test_a_column_sparse_layer_is_held_against_our_dense_one_in_the_same_layout():
    wide = Layer("wide", 64, 6, (3, 3), 6, 6, padding=1)
    work = column_sparse_work(wide, 0.25, batch=1)
    assert work.over_own_dense == 4
    own = {name: timing for name, timing in run(6.0, 1.0).timings.items() if name.startswith("cnnkern")}
    ratios = Run(run(6.0, 3.0).as_rivals() | own, over_own_dense=work.over_own_dense).ratios()
    assert ratios == {
        "contiguous": 1.5,
        "channels_last": 6.0,
        "best": 6.0,
        "in_proportion_contiguous": 0.75,
        "in_proportion_channels_last": 0.75,
    }
    assert column_sparse_work(SMALL, 0.25, batch=1).over_own_dense is None


def test_a_perforated_layer_is_held_against_our_dense_one():
    work = perforated_work("perforated 0.75", SMALL, 0.75, kept=9, batch=1)
    timings = run(6.0, 2.0).timings
    ratios = Run(timings, own_dense_seconds=6.0, over_own_dense=work.over_own_dense).ratios()
    assert (ratios["over_own_dense"], ratios["in_proportion"]) == (3.0, 0.75)


def test_a_row_takes_the_median_of_the_ratios_of_its_runs():
    found = row(run(6.0, 2.0), run(1.0, 1.0), run(80.0, 10.0))
    assert found.ratios["channels_last"] == 3.0
    entry = found.contenders["cnnkern/channels_last"]
    assert (entry.seconds, entry.runs, entry.spread) == (2.0, [2.0, 1.0, 10.0], pytest.approx(0.1))
    assert entry.gflops == pytest.approx(SMALL.cp_flops(1, 2) / 2.0 / 1e9)
    assert entry.share_of_peak == pytest.approx(entry.gflops / 100)
    assert found.best("torch") == "torch/channels_last"
    assert found.best("onnxruntime") is None


def test_memory_compares_the_leanest_of_each_side():
    sizes = {
        "torch/contiguous": 90,
        "torch/channels_last": 80,
        "cnnkern/contiguous": 20,
        "cnnkern/channels_last": 25,
    }
    found = Row.of(training_work(SMALL, 2, batch=1), 1, [run(1.0, 1.0)], sizes)
    assert found.ratios["extra_memory"] == 4.0


def test_the_summary_keeps_losses():
    lines = {line.ratio: line for line in summarize([row(run(8.0, 1.0)), row(run(1.0, 2.0))])}
    assert lines["channels_last"].geometric_mean == pytest.approx(math.sqrt(8 * 0.5))
    assert (lines["channels_last"].least, lines["channels_last"].least_layer) == (0.5, "small R=2")


@pytest.fixture(scope="module")
def results() -> Results:
    titles = []
    settings = Settings(
        layers=(SMALL, DENSE), batches=(2,), gemms=((3, 5, 7),), threads=(1,), runs=2, seconds=0.01
    )
    results = compare(settings, titles.append)
    assert len(titles) == settings.steps() == 23
    return results


def test_a_small_comparison_runs(results: Results):
    assert torch.get_num_threads() == Settings().threads[-1]
    assert [(found.work.suite, found.work.title) for found in results.rows] == [
        ("dense", "small"),
        ("cp", "small R=2"),
        ("dense", "dense only"),
        *(
            (f"column_sparse {density:g}", layer)
            for density in DENSITIES
            for layer in ("small", "dense only")
        ),
        ("training", "small R=2"),
        ("overhead", "no_grad"),
        ("overhead", "inference_mode"),
        ("int8", "small"),
        ("int8", "dense only"),
        ("int8 gemm", "3 x 5 x 7"),
        ("int8 cp", "small R=2"),
        *((f"int8 column_sparse {p:g}", layer) for layer in ("small", "dense only") for p in (0.3, 0.1)),
        *(
            (suite, f"{name} r={rate}")
            for name in ("small", "dense only")
            for suite, rate in (
                *((f"perforated {rate:g}", rate) for rate in (0, 0.25, 0.5, 0.75)),
                ("perforated grid", 0.75),
            )
        ),
    ]
    ratios = {found.work.suite: set(found.ratios) for found in results.rows}
    layouts = {"contiguous", "channels_last", "best"}
    assert ratios["column_sparse 1"] == layouts
    assert ratios["training"] == {*layouts, "extra_memory"}
    assert ratios["perforated 0.5"] == {*layouts, "over_dense", "over_own_dense", "in_proportion"}
    assert ratios["int8"] == {*layouts, "onnxruntime", "over_dense", "over_own_dense"}
    assert ratios["int8 gemm"] == {"contiguous", "best"}
    for found in results.rows[:3]:
        assert set(found.ratios) >= {"contiguous", "channels_last", "best", "onnxruntime"}
        assert all(ratio > 0 for ratio in found.ratios.values())
        assert ("over_dense" in found.ratios) == (found.work.suite == "cp")
        assert found.contenders["onnxruntime"].seconds > 0


def test_the_file_says_what_the_numbers_depend_on(results: Results, tmp_path):
    results.write(tmp_path / "deep" / "result.json")
    document = json.loads((tmp_path / "deep" / "result.json").read_text())
    assert set(document) == {"schema", "environment", "settings", "rows", "notes", "summary"}
    assert set(document["environment"]) >= {"commit", "torch", "cpu", "isa", "threads", "onnxruntime", "date"}
    assert document["settings"]["layers"] == ["small", "dense only"]
    first = document["rows"][0]
    assert set(first) == {
        "work",
        "threads",
        "peak_gflops",
        "bandwidth_gbs",
        "dense_seconds",
        "contenders",
        "ratios",
        "extra_bytes",
    }
    assert set(first["contenders"]["torch/contiguous"]) == {
        "seconds",
        "spread",
        "runs",
        "gflops",
        "gbs",
        "share_of_peak",
    }
    assert first["peak_gflops"] > 0
    assert first["bandwidth_gbs"] > 0
    assert {line["ratio"] for line in document["summary"]} >= {"contiguous", "channels_last", "over_dense"}


def test_the_tables_fit_and_name_every_layer(results: Results):
    printed = io.StringIO()
    show(results, Console(file=printed, width=REPORT_WIDTH))
    text = printed.getvalue()
    assert "Dense: Im2colConv2d against nn.Conv2d. Batch 2, 1 thread" in text
    assert "small R=2" in text
    assert "geometric mean" in text
    assert "…" not in text


def test_only_a_complete_run_replaces_the_file_of_the_machine(tmp_path):
    def files(*arguments: str) -> list:
        options = parser().parse_args(arguments)
        return _files(options, settings_of(options))

    kept = tmp_path / "kept.json"
    assert files() == [RESULTS / f"{machine_slug()}.json"]
    assert files("--quick") == []
    assert files("--layers", "ResNet*", "--json", str(kept)) == [kept]


def test_layers_are_chosen_by_name():
    chosen = settings_of(parser().parse_args(["--layers", "VGG*", "--quick"]))
    assert [layer.name for layer in chosen.layers] == [
        layer.name for layer in LAYERS if layer.name.startswith("VGG")
    ]
    with pytest.raises(SystemExit, match="AlexNet conv2"):
        settings_of(parser().parse_args(["--layers", "nothing"]))
