"""`cnnkern profile` and `cnnkern compress`: what they print and write, and one line for a user's mistake."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

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


@pytest.mark.parametrize("shape", ["", "1,a", "0,3,4,4"])
def test_wrong_usage_has_status_two(shape: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["profile", MODEL, f"--input-shape={shape}"])
    assert stopped.value.code == 2
    assert "--input-shape" in capsys.readouterr().err


def test_help_has_examples(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["compress", "--help"])
    assert stopped.value.code == 0
    assert "python -m cnnkern compress mine.nets:net" in capsys.readouterr().out
