"""Each experiment is one command that writes its numbers and its picture, and times only what is right."""

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from bench.experiments import alexnet_ranks, blocks, equal_time, kernel_sizes, layer_types
from bench.experiments.block_zoo import BLOCKS
from bench.experiments.spectrum import EXPONENTS, trained_like
from bench.timing import WrongResult

SMALL = {
    alexnet_ranks: ["--ranks", "4", "2", "--shrink", "24", "--batch", "1", "--als-most", "2"],
    equal_time: ["--layers", "ResNet stage 2", "--shares", "0.8", "--shrink", "16", "--batch", "1"],
    blocks: ["--channels", "32", "--size", "8"],
    layer_types: ["--networks", "AlexNet", "--batch", "1"],
    kernel_sizes: ["--kernels", "5", "3", "--channels", "4", "--size", "9", "--threads", "1"],
}


@pytest.mark.parametrize("experiment", SMALL, ids=lambda module: module.__name__.rpartition(".")[2])
def test_one_command_writes_both_files(
    experiment: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    experiment.main([*SMALL[experiment], "--seconds", "0.01", "--output", str(tmp_path)])
    picture, numbers = sorted(tmp_path.iterdir(), key=lambda path: path.suffix, reverse=True)
    assert picture.read_bytes().startswith(b"\x89PNG")
    document = json.loads(numbers.read_text(encoding="utf-8"))
    assert document["environment"]["cpu"]
    assert document["points"]
    assert len(capsys.readouterr().out.splitlines()) > len(document["points"]) / 4


def test_every_way_computes_the_same_and_a_wrong_one_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {call.name.split("/")[0] for call in kernel_sizes.contest(3, 8, 2, 7)} == set(kernel_sizes.WAYS)
    monkeypatch.setattr(kernel_sizes, "_by_patches", lambda x, weight: x * 2)
    with pytest.raises(WrongResult, match="patches and product"):
        kernel_sizes.contest(3, 8, 2, 7)


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_keeps_the_map_and_has_all_its_convolutions_replaced(name: str) -> None:
    x = torch.randn(1, 64, 6, 7)
    with torch.no_grad():
        block = BLOCKS[name](64).eval()
        assert block(x).shape[2:] == x.shape[2:]
        assert blocks.operations(block, x) > 0
        assert not any(type(each) is nn.Conv2d for each in blocks.with_our_layers(block).modules())


def test_a_drawn_weight_has_the_spectrum_of_a_trained_one() -> None:
    weight = trained_like(64, 48, (5, 5)).double()
    assert weight.norm().item() == pytest.approx(1)
    for mode, exponent in enumerate(EXPONENTS):
        values = torch.linalg.svdvals(weight.movedim(mode, 0).flatten(1))
        law = torch.arange(1, len(values) + 1) ** -exponent
        middle = len(values) // 2
        assert (values[middle] / values[0]).item() == pytest.approx(law[middle].item(), rel=0.35)
