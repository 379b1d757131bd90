"""`cnnkern profile` and `cnnkern compress`: what they print and write, and one line for a user's mistake."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import cnnkern
from cnnkern import cli
from tests.compression.nets import chain

MODEL = "tests.compression.nets:chain"
SHAPE = "--input-shape=2,3,20,20"
FAST = ["--seconds=0.001"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    inputs = torch.randn(40, 3, 20, 20)
    save_file({"inputs": inputs, "labels": torch.arange(40) % 7}, tmp_path / "data.safetensors")
    return tmp_path / "data.safetensors"


@pytest.mark.parametrize("more", [[], ["--json"], ["--channels-last", "--threads=1"]])
def test_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str]):
    torch.save(chain().state_dict(), tmp_path / "state.pt")
    weights = f"--weights={tmp_path / 'state.pt'}"
    assert cli.main(["profile", MODEL, SHAPE, weights, f"--report={tmp_path}", *FAST, *more]) == 0
    out = capsys.readouterr().out
    written = json.loads((tmp_path / "profile.json").read_text())
    assert (json.loads(out) == written) if "--json" in more else ("Conv2d" in out)
    assert (tmp_path / "profile.svg").read_text().startswith("<svg")


def test_compress_writes_what_load_reads(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]):
    output = tmp_path / "faster.safetensors"
    command = ["compress", MODEL, SHAPE, "--max-loss-increase=100", f"--data={data}", f"--output={output}"]
    status = cli.main([*command, f"--report={tmp_path}", "--methods", "column_sparse", *FAST])
    assert (status == 0) == output.exists()
    assert status in (0, cli.NOTHING_GAINED)
    assert ("written to" if status == 0 else "nothing was written") in capsys.readouterr().out
    assert json.loads((tmp_path / "report.json").read_text())["changed"] == (status == 0)
    assert (tmp_path / "report.html").exists()
    if status == 0:
        cnnkern.load(output, chain())
        assert cli.main(["profile", MODEL, SHAPE, f"--weights={output}", *FAST]) == 0
        assert "ColumnSparseConv2d" in capsys.readouterr().out


def test_nothing_to_gain_has_a_status_of_its_own(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    output = tmp_path / "faster.safetensors"
    command = ["compress", "torch.nn:Identity", SHAPE, "--target-speedup=2", f"--output={output}", *FAST]
    assert cli.main(command) == cli.NOTHING_GAINED
    assert "nothing was written" in capsys.readouterr().out
    assert not output.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nets", SHAPE], "model: expected PACKAGE.MODULE:FACTORY, got 'nets'"),
        (["no.such.place:net", SHAPE], "No module named 'no'"),
        (["tests.compression.nets:net", SHAPE], "model: expected 'net' in tests.compression.nets, got none"),
        (["math:pi", SHAPE], "model: expected a function, got float 'math:pi'"),
        (["builtins:dict", SHAPE], "to return a torch.nn.Module, got dict"),
        (["torch.nn:Linear", SHAPE], "model: torch.nn:Linear failed with TypeError"),
        ([MODEL, SHAPE, "--weights=nowhere.pt"], "No such file"),
        ([MODEL, SHAPE, f"--weights={__file__}"], "expected tensors by name"),
        ([MODEL, "--input-shape=1,4,9,9"], "expected input[1, 4, 9, 9] to have 3 channels"),
        ([MODEL, SHAPE, "--seconds=0"], "seconds: expected more than 0"),
        (["tests.compression.nets:Branches", "--input-shape=1,3"], "failed on --input-shape 1,3 with"),
        ([MODEL, SHAPE, f"--report={__file__}"], "File exists"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["profile", *arguments]) == cli.ERROR
    error = capsys.readouterr().err
    assert error.startswith("cnnkern: error: ")
    assert error.count("\n") == 1
    assert message in error


def test_weights_that_do_not_fit_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    save_file({"0.weight": torch.ones(2)}, tmp_path / "other.safetensors")
    assert cli.main(["profile", MODEL, SHAPE, f"--weights={tmp_path / 'other.safetensors'}"]) == cli.ERROR
    assert "Missing key" in capsys.readouterr().err


def test_what_the_models_code_prints_and_raises_is_kept_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "talking.py").write_text(
        "from torch import nn\n"
        "class Failing(nn.Module):\n    def forward(self, x):\n        return {}['no such key']\n"
        "def net():\n    print('here I am')\n    return nn.Conv2d(3, 4, 3)\n"
    )
    (tmp_path / "failing.py").write_text("1 / 0\n")
    assert cli.main(["profile", "talking:net", SHAPE, "--json", *FAST]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["layers"]
    assert "here I am" in captured.err
    for model, message in (
        ("talking:Failing", "with KeyError: 'no such key'"),
        ("failing:net", "importing failing failed with ZeroDivisionError"),
    ):
        assert cli.main(["profile", model, SHAPE]) == cli.ERROR
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_bench_times_what_could_take_each_convolutions_place(
    more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    methods = ["--methods", "int8", "column_sparse"]
    assert cli.main(["bench", MODEL, SHAPE, f"--report={tmp_path}", *FAST, *more, *methods]) == 0
    out, written = capsys.readouterr().out, json.loads((tmp_path / "bench.json").read_text())
    assert (json.loads(out) == written) if more else ("density 0.25" in out)
    assert [layer["name"] for layer in written["layers"]] == ["0", "2", "4"]
    for layer in written["layers"]:
        assert {rival["method"] for rival in layer["rivals"]} == {"dense", "int8", "column_sparse"}
        assert all(
            rival["speedup"] == pytest.approx(layer["seconds"] / rival["seconds"])
            for rival in layer["rivals"]
        )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got a file that is not whole"),
        (b"rubbish" * 50, "got a file that is not whole"),
        ({"epoch": 3, "state_dict": {}}, "such as a state dict alone, got int 'epoch'"),
        ([torch.ones(1)], "expected tensors by name, got list"),
        (nn.ReLU(), "has other things in it"),
    ],
)
def test_files_without_a_state_dict_are_refused(
    content: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "weights.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    assert cli.main(["profile", MODEL, SHAPE, f"--weights={path}"]) == cli.ERROR
    error = capsys.readouterr().err
    assert f"{path}: expected tensors by name" in error
    assert message in error


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"inputs": torch.ones(4, 3, 20, 20), "labels": torch.full((4,), 7)}, "'labels' that are classes"),
        ({"inputs": torch.ones(4, 3, 20, 20).byte()}, "expected 'inputs' of torch.float32"),
        ({"inputs": torch.ones(0, 3, 20, 20)}, "expected 'inputs' of torch.float32"),
        ({"inputs": torch.ones(4, 3, 20, 20), "labels": torch.ones(3)}, "expected one label for each"),
    ],
)
def test_data_that_does_not_fit_is_named(
    tensors: dict[str, torch.Tensor], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    torch.save(tensors, tmp_path / "data.pt")
    command = ["compress", MODEL, SHAPE, "--target-speedup=2", f"--data={tmp_path / 'data.pt'}"]
    assert cli.main([*command, f"--output={tmp_path / 'out'}"]) == cli.ERROR
    assert message in capsys.readouterr().err


def test_where_nothing_can_be_written_is_said_before_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(cnnkern, "compress", lambda *_, **__: pytest.fail("searched"))
    for wrong in (f"--output={tmp_path}", f"--output={__file__}/out", f"--report={__file__}"):
        assert cli.main(["compress", MODEL, SHAPE, "--target-speedup=2", wrong]) == cli.ERROR
        assert capsys.readouterr().err.startswith("cnnkern: error: ")


def test_an_interrupt_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cnnkern, "profile", interrupt)
    assert cli.main(["profile", MODEL, SHAPE]) == cli.INTERRUPTED
    assert capsys.readouterr().err == "cnnkern: interrupted\n"


@pytest.mark.parametrize("shape", ["", "1,a", "0,3,4,4"])
def test_wrong_usage_has_status_two(shape: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["profile", MODEL, f"--input-shape={shape}"])
    assert stopped.value.code == 2
    assert "--input-shape: expected positive numbers such as 1,3,224,224" in capsys.readouterr().err


def test_help_has_examples(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["compress", "--help"])
    assert stopped.value.code == 0
    assert "python -m cnnkern compress mine.nets:net" in capsys.readouterr().out
