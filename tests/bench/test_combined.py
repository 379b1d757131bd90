"""The comparison of whole networks, on one that is tiny, and without the other processes."""

import io

import pytest
import torch
from rich.console import Console
from torch import nn

from bench.experiments import combined
from bench.experiments.combined import STOCK, Settings, Subject, measure
from cnnkern.compression import Distill, Divergence


def test_every_contender_is_judged_and_timed(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(4, 32, 5, padding=2), nn.ReLU(), nn.Conv2d(32, 32, 5)).eval()
    x = torch.randn(2, 4, 20, 20)
    expected = network(x)
    monkeypatch.setattr(combined, "_rivals", lambda *_: {})
    subject = Subject(
        "tiny",
        "nowhere:nothing",
        network,
        x,
        [x],
        Divergence(network, [x]),
        Distill([(x, None)], steps=1, loss=lambda y, wanted, _: (y - wanted).square().mean()),
        "close",
        torch.no_grad()(lambda classify: float((classify(x) - expected).norm() < expected.norm())),
    )
    settings = Settings(targets=(1.2,), search_seconds=0.01, seconds=0.1)
    facts, points = measure(subject, settings, None)
    assert facts["chosen"].keys() == {"compress, 1.2×"}
    assert [point.name for point in points] == [STOCK, "compress, 1.2×"]
    assert [point.target for point in points] == [None, 1.2]
    assert all(point.quality == 1 and point.time.milliseconds > 0 for point in points)
    text = io.StringIO()
    Console(file=text, width=120).print(combined._table(facts, points))
    assert "compress, 1.2×" in text.getvalue()
