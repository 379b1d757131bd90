"""The experiment by density: right contenders, one command that writes both files, and what it concludes."""

import json
from pathlib import Path

import pytest
import torch

from bench.experiments import density
from bench.experiments.density import Point, contest, wins_from
from bench.timing import WrongResult


def test_one_command_writes_both_files(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    sizes = ["--channels", "5", "--size", "7", "--seconds", "0.01"]
    density.main([*sizes, "--densities", "1", "0.1", "--threads", "1", "--output", str(tmp_path)])
    picture, numbers = sorted(tmp_path.iterdir(), key=lambda path: path.suffix, reverse=True)
    assert picture.read_bytes().startswith(b"\x89PNG")
    document = json.loads(numbers.read_text(encoding="utf-8"))
    assert [point["density"] for point in document["points"]] == [0.1, 1.0]
    assert document["environment"]["threads"] == torch.get_num_threads()
    for point in document["points"]:
        assert len(point["seconds"]) == 7
        assert min(point["seconds"].values()) > 0
    assert "column-sparse" in capsys.readouterr().out


def test_a_wrong_contender_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(density, "_random_mask", lambda weight, _: torch.ones_like(weight))
    monkeypatch.setattr(density.scipy.sparse, "csc_array", lambda weight: 2 * weight)
    with pytest.raises(WrongResult, match="scipy CSC"):
        contest(3, 5, 0.5)


def test_a_sparse_product_wins_where_it_wins_at_all_lower_densities() -> None:
    def point(share: float, scipy: float, columns: float) -> Point:
        times = {"torch convolution": 1.0, "scipy CSC": scipy, "torch CSR": 2.0, "column-sparse": columns}
        return Point(1, share, times, 0.0)

    points = [point(1.0, 0.5, 1.1), point(0.1, 1.5, 0.2), point(0.01, 0.5, 0.1)]
    assert wins_from(points, 1) == {"scipy CSC": 0.01, "torch CSR": None, "column-sparse": 0.1}
