"""A compressed model meets what was asked for, or the report says why not.

Times come from a clock that is scripted: a layer takes what its arithmetic says. So a test promises what is
done with times, and not how fast this machine is.
"""

import copy
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cnnkern
from cnnkern.compression import compressor
from cnnkern.compression.fits import Fits
from cnnkern.compression.methods import METHODS
from cnnkern.compression.report import CHOSEN
from tests.compression.clocks import arithmetic, script
from tests.compression.nets import Branches, chain

X = torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(3))
QUICK = ("column_sparse", "perforated", "spatial_svd", "tucker2")


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clocks that show what the arithmetic costs."""
    script(monkeypatch.setattr)


def compress(model: nn.Module, x: Any = X, **options: Any) -> cnnkern.compression.Compressed:
    return cnnkern.compress(model, x, **{"methods": QUICK, "seconds": 1e-3, **options})


@pytest.mark.usefixtures("scripted")
def test_the_target_is_met_as_predicted():
    model = chain()
    before = copy.deepcopy(model.state_dict())
    faster, report = compress(model, target_speedup=2.0)
    assert report.speedup >= 2
    assert report.speedup == pytest.approx(arithmetic(model, X) / arithmetic(faster, X))
    for attempt in report.attempts:
        assert attempt.predicted_seconds == pytest.approx(attempt.seconds, rel=0.15)
    assert report.after.parameters == sum(p.numel() for p in faster.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not faster.training


@pytest.mark.usefixtures("scripted")
def test_the_loss_stays_within_what_is_allowed():
    model, losses = chain(), []
    for most in (0.0, 1e-3, 1e-2):
        _, report = compress(model, max_loss_increase=most)
        assert report.after.loss - report.before.loss <= most + 1e-6
        losses.append(report.speedup)
    assert losses == sorted(losses)
    assert losses[-1] > 1.5


@pytest.mark.usefixtures("scripted")
def test_everything_tried_has_a_verdict_and_is_in_every_form_of_the_report(tmp_path: Path):
    _, report = compress(chain(), target_speedup=1.5, methods=("column_sparse", "tucker2"))
    for layer in report.layers:
        assert all(tried.verdict for tried in layer.tried)
        chosen = [tried for tried in layer.tried if tried.verdict == CHOSEN]
        assert [tried.title for tried in chosen] == ([layer.chosen] if layer.chosen else [])
        for tried in layer.tried:
            assert ("not faster" in tried.verdict) == (tried.seconds > 0.95 * layer.seconds)
            assert (tried.error is None) == ("not faster" in tried.verdict)
    document = json.loads(report.to_json())
    assert document["speedup"] == report.speedup
    assert [layer["name"] for layer in document["layers"]] == ["0", "2", "4"]
    report.save_html(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for layer in report.layers:
        assert layer.chosen is None or (layer.chosen in page and layer.chosen.split(",")[0] in str(report))
    pictures = page.split("<svg")[1:]
    assert len(pictures) == 4
    for picture in pictures:
        ET.fromstring("<svg" + picture.partition("</svg>")[0] + "</svg>")


@pytest.mark.usefixtures("scripted")
def test_nothing_to_gain_returns_the_model_itself():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()).eval()
    same, report = compress(model, target_speedup=2.0, methods=("spatial_svd", "tucker2"))
    assert same is model
    assert not report.changed
    assert report.speedup == 1
    assert "the model is unchanged" in str(report)
    same, report = compress(nn.Linear(3, 2).eval(), torch.ones(1, 3), max_loss_increase=1.0)
    assert not report.changed


@pytest.mark.usefixtures("scripted")
def test_a_target_out_of_reach_gives_the_fastest_and_says_so():
    faster, report = compress(chain(), target_speedup=1000.0, methods=("column_sparse",))
    assert report.changed
    assert any("No plan reaches 1000 times the speed" in note for note in report.notes)
    assert isinstance(faster[2], cnnkern.ColumnSparseConv2d)


@pytest.mark.usefixtures("scripted")
def test_an_evaluation_that_asks_for_nothing_new_decides():
    """A loss that only the middle layer's weight counts in leaves that layer to the last."""
    model = chain()
    weight = model[2].weight.detach().clone()

    def evaluate(candidate: nn.Module) -> float:
        layer = candidate[2]
        exact = isinstance(layer, nn.Conv2d | cnnkern.Im2colConv2d) and torch.equal(layer.weight, weight)
        return 1.0 + (not exact)

    _, report = compress(model, max_loss_increase=0.5, evaluate=evaluate)
    assert report.before.loss == report.after.loss == 1.0
    assert report.layers[1].chosen in (None, "dense, the same weights")
    assert report.layers[2].chosen is not None


@pytest.mark.usefixtures("scripted")
def test_what_is_left_alone_is_in_the_report():
    model = Branches().eval()
    faster, report = compress(model, (X, 2.0), max_loss_increase=1.0, methods=("column_sparse",))
    assert report.left_alone == {"twice": "called 2 times in a run"}
    assert "called 2 times" in str(report)
    assert type(faster.twice) is nn.Conv2d


@pytest.mark.usefixtures("scripted")
def test_finetuning_is_kept_only_where_it_helps():
    def spoil(model: nn.Module, original: nn.Module) -> None:
        model[8].bias.data += 100

    def repair(model: nn.Module, original: nn.Module) -> None:
        cnnkern.compression.Distill(
            [(X, None)], steps=30, learning_rate=0.01, loss=lambda y, wanted, _: (y - wanted).square().sum()
        )(model, original)

    options = {"target_speedup": 3.0, "methods": ("column_sparse",)}
    _, untrained = compress(chain(), **options)
    _, spoiled = compress(chain(), **options, finetune=spoil)
    assert spoiled.after.loss == untrained.after.loss
    assert "as it was before" in spoiled.notes[-1]
    _, repaired = compress(chain(), **options, finetune=repair)
    assert repaired.after.loss < untrained.after.loss


@pytest.mark.usefixtures("scripted")
def test_finished_fits_are_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    options = {"target_speedup": 1.5, "methods": ("tucker2",), "cache": tmp_path}
    _, first = compress(chain(), **options)
    (damaged, *_) = tmp_path.iterdir()
    damaged.write_bytes(b"cut short")
    made = []
    tucker = METHODS["tucker2"]
    monkeypatch.setitem(
        METHODS,
        "tucker2",
        type(tucker)(**{**vars(tucker), "make": lambda *a: made.append(a) or tucker.make(*a)}),
    )
    _, second = compress(chain(), **options)
    assert len(made) <= 1
    assert [layer.chosen for layer in second.layers] == [layer.chosen for layer in first.layers]
    assert second.after.loss == pytest.approx(first.after.loss)


class Awkward(nn.Module):
    """What models do besides: a layer with two names, one that is frozen, a functional convolution, arguments
    by name that are no tensors, a nest of outputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.body = nn.ModuleDict({"same": self.stem, "next": nn.Conv2d(32, 48, 5, padding=2)})
        self.frozen = nn.Conv2d(48, 48, 3, padding=1).requires_grad_(False)
        self.free = nn.Parameter(torch.randn(8, 48, 1, 1))

    def forward(self, x: Tensor, *, power: int, names: list[str]) -> dict[str, Any]:
        x = self.body["next"](self.body["same"](x).relu()).relu()
        y = torch.nn.functional.conv2d(self.frozen(x), self.free) ** power
        return {name: (y.mean(dim=(2, 3)), None) for name in names}


@pytest.mark.usefixtures("scripted")
def test_models_that_do_more_than_call_layers_are_compressed_where_they_can_be(tmp_path: Path):
    model = Awkward().eval()
    example = {"x": X, "power": 2, "names": ["a"]}
    faster, report = compress(model, example, target_speedup=1.5, methods=("column_sparse", "int8"))
    assert report.changed
    assert report.left_alone.keys() == {"frozen", "torch.nn.functional"}
    assert faster.stem is faster.body["same"]
    assert [layer.name for layer in report.layers] == ["stem", "body.next"]
    assert type(faster.frozen) is nn.Conv2d
    cnnkern.save(faster, tmp_path / "model")
    again = cnnkern.load(tmp_path / "model", Awkward().eval())
    assert again.stem is again.body["same"]
    with torch.no_grad():
        assert torch.equal(again(**example)["a"][0], faster(**example)["a"][0])


@pytest.mark.usefixtures("scripted")
def test_int8_layers_are_chosen_calibrated_and_trained(tmp_path: Path):
    model = chain()
    faster, report = compress(model, target_speedup=2.0, methods=("int8",))
    assert report.speedup >= 2
    chosen = [layer for layer in report.layers if layer.chosen == "int8, weights and inputs"]
    assert chosen
    for layer in chosen:
        assert layer.error < 0.02
        assert type(faster.get_submodule(layer.name)) is cnnkern.Int8Conv2d
    assert report.after.loss < 1e-3
    assert report.after.parameters == report.before.parameters
    assert report.after.bytes < report.before.bytes
    teach = cnnkern.compression.Distill(
        [(X, None)], steps=3, learning_rate=1e-3, loss=lambda y, wanted, _: (y - wanted).square().sum()
    )
    trained, report = compress(model, target_speedup=2.0, methods=("int8",), finetune=teach)
    assert "Fine-tuning changed the loss" in report.notes[-1]
    cnnkern.save(trained, tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(cnnkern.load(tmp_path / "model", chain())(X), trained(X))


@pytest.mark.usefixtures("scripted")
def test_what_was_predicted_stands_beside_what_was_measured(tmp_path: Path):
    _, report = compress(chain(), target_speedup=2.0, methods=("column_sparse",))
    assert report.before.predicted_seconds is None
    assert report.after.predicted_seconds == pytest.approx(report.after.seconds, rel=0.15)
    assert report.after.prediction in str(report)
    report.save_html(tmp_path / "report.html")
    assert report.after.prediction in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_makes_the_layer_that_it_times(method: str):
    torch.manual_seed(0)
    conv = nn.Conv2d(64, 64, 3, stride=(1, 2), padding=(1, 2), dilation=(2, 1)).eval()
    x = torch.randn(1, 64, 8, 9)
    place = compressor.inspect_model(conv, x).places[0]
    strength = METHODS[method].strengths(conv, place.cost)[-1]
    layer = Fits(None, 0).get(conv, method, strength, place.cost.output_size)
    assert not layer.training
    with torch.no_grad():
        assert layer(x).shape == conv(x).shape
        blank = METHODS[method].blank
        if blank is not None:
            assert repr(blank(conv, strength)) == repr(layer)
            assert {k: v.shape for k, v in blank(conv, strength).state_dict().items()} == {
                k: v.shape for k, v in layer.state_dict().items()
            }


@pytest.mark.usefixtures("scripted")
def test_a_compressed_model_is_saved_and_loaded(tmp_path: Path):
    faster, _ = compress(chain(), target_speedup=2.0)
    cnnkern.save(faster, tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(cnnkern.load(tmp_path / "model", chain())(X), faster(X))


@pytest.mark.usefixtures("scripted")
def test_batch_norms_are_folded_where_that_is_exact():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()).eval()
    nn.init.uniform_(model[1].running_var, 0.5, 2)
    faster, report = compress(model, max_loss_increase=0.0, methods=())
    assert isinstance(faster[1], nn.Identity)
    assert report.changed
    with torch.no_grad():
        torch.testing.assert_close(faster(X), model(X))


def test_with_real_clocks_a_smaller_network_comes_out():
    faster, report = cnnkern.compress(
        chain(), X, max_loss_increase=10.0, methods=("column_sparse",), seconds=1e-3
    )
    assert report.changed == (faster.state_dict().keys() != chain().state_dict().keys())
    assert report.environment["threads"] == torch.get_num_threads()
    assert str(report)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({}, ValueError, "target_speedup, max_loss_increase: expected one of them, got None and None"),
        ({"target_speedup": 2, "max_loss_increase": 1}, ValueError, "expected one of them"),
        ({"target_speedup": 1}, ValueError, "target_speedup: expected a number above 1, got 1"),
        ({"max_loss_increase": -1}, ValueError, "max_loss_increase: expected a number of at least 0"),
        ({"target_speedup": 2, "methods": "cp"}, TypeError, "methods: expected a sequence of names"),
        ({"target_speedup": 2, "methods": ["lsd"]}, ValueError, "methods: expected some of cp, .* got 'lsd'"),
        ({"target_speedup": 2, "calibration": []}, ValueError, "calibration: expected at least one batch"),
        ({"target_speedup": 2, "seconds": 0}, ValueError, "seconds: expected more than 0"),
        ({"target_speedup": 2, "evaluate": lambda m: "bad"}, TypeError, "evaluate: .* returns a number"),
        (
            {"target_speedup": 2, "evaluate": lambda m: float("nan")},
            ValueError,
            "evaluate: expected a finite",
        ),
    ],
)
def test_what_cannot_be_asked_for_is_named(options: dict, kind: type[Exception], message: str):
    with pytest.raises(kind, match=message):
        compress(chain(), **options)
