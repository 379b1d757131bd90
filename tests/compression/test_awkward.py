"""Models, data and folders as people have them: compressed where they can be, refused in words, never spoilt.

Times come from a scripted clock, as in test_compress.py.
"""

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cnnkern
from cnnkern.compression import compressor, fits
from cnnkern.compression.pictures import Points, scatter
from tests.compression.clocks import script

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch.setattr)
    monkeypatch.setattr(compressor, "FRONT_STEPS", 2)


def compress(model: nn.Module, x: Any = X, **options: Any) -> cnnkern.compression.Compressed:
    wanted = {"target_speedup": 2.0, "methods": ("column_sparse",), "seconds": 1e-3, **options}
    return cnnkern.compress(model.eval(), x, **wanted)


class Net(nn.Module):
    """Two convolutions and what a subclass makes of them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.norm = nn.Conv2d(3, 16, 5, padding=2), nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 32, 5, padding=2)
        nn.init.uniform_(self.norm.running_var, 0.2, 3)

    def forward(self, x: Tensor) -> Any:
        return self.second(self.norm(self.first(x)).relu())


class Listed(Net):
    """Calls its layers through a plain list and a plain dict."""

    def __init__(self) -> None:
        super().__init__()
        self.order, self.last = [self.first, self.norm], {"second": self.second}

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.order:
            x = layer(x)
        return self.last["second"](x.relu())


class ByName(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.second(input=self.norm(self.first(x)).relu())


class LooksAtTheWeight(Net):
    def forward(self, x: Tensor) -> Tensor:
        assert self.second.weight.shape == (32, 16, 5, 5)
        return super().forward(x)


class Keeps(Net):
    """Makes something at the first call, and keeps it."""

    kept = None

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        self.kept = torch.ones_like(y) if self.kept is None else self.kept
        return y * self.kept


class Volumes(nn.Module):
    """Convolutions of other dimensions around one of two."""

    def __init__(self) -> None:
        super().__init__()
        self.deep, self.flat = nn.Conv3d(3, 8, 3, padding=1), nn.Conv2d(8, 32, 5, padding=2)
        self.up = nn.ConvTranspose2d(32, 4, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.flat(self.deep(x[:, :, None])[:, :, 0]))


@pytest.mark.parametrize(
    ("build", "left"),
    [
        (ByName, {"second": "not called with one batch of images"}),
        (Keeps, {}),
        (Volumes, {"deep": "Conv3d", "up": "ConvTranspose2d"}),
        (lambda: nn.DataParallel(Net()), {}),
        (lambda: torch.compile(Net(), backend="eager"), {}),
        (lambda: nn.Sequential(torch.jit.script(nn.Sequential(nn.Conv2d(3, 3, 1))), Net()), {}),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute")
def test_what_can_be_replaced_is_and_the_rest_is_told(build: Callable[[], nn.Module], left: dict[str, str]):
    model = build()
    faster, report = compress(model)
    assert report.changed
    assert report.left_alone.keys() == left.keys()
    assert all(reason in report.left_alone[name] for name, reason in left.items())
    with torch.no_grad():
        assert faster(X).shape == model(X).shape


def test_layers_in_plain_lists_are_replaced_there_too(tmp_path: Path):
    faster, report = compress(Listed())
    assert all(tried.loss != 0 for layer in report.layers for tried in layer.tried if tried.method != "dense")
    assert faster.order[0] is faster.first
    assert faster.last["second"] is faster.second
    cnnkern.save(faster, tmp_path / "model")
    again = cnnkern.load(tmp_path / "model", Listed().eval())
    with torch.no_grad():
        nn.init.zeros_(again.first.bias)
        nn.init.zeros_(faster.first.bias)
        assert torch.equal(again(X), faster(X))


def test_a_candidate_that_the_model_cannot_be_run_with_gets_a_verdict():
    _, report = compress(LooksAtTheWeight())
    verdicts = {tried.method: tried.verdict for tried in report.layers[1].tried}
    assert "the model cannot be run with it: AssertionError" in verdicts["column_sparse"]
    assert report.layers[1].chosen in (None, "dense, the same weights")


class Optional(Net):
    """Takes a step where an argument is not given, which `torch.fx` does not see."""

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        x = self.first(x)
        if y is None:
            x = 3 * torch.sigmoid(x)
        return self.second(self.norm(x))


def test_what_a_trace_does_not_see_is_neither_folded_nor_linked():
    model = Optional()
    faster, report = compress(model, methods=("int8",), target_speedup=3.9)
    assert any("Batch norms are not folded" in note for note in report.notes)
    assert [layer.chosen for layer in report.layers] == ["int8, weights and inputs"] * 2
    assert faster.first.out_scale is None
    assert report.after.loss < 1e-3


def test_batch_norms_that_stay_since_the_model_cannot_be_traced_are_told():
    class Dynamic(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if x.sum() > -1e9 else -x)

    _, report = compress(Dynamic())
    assert any("Batch norms are not folded: torch.fx cannot trace" in note for note in report.notes)


def test_batch_norms_that_stay_since_nothing_can_take_them_in_are_told():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)).eval()
    _, report = compress(model)
    assert "Batch norms that no convolution before them can take in: 2." in report.notes


class Routed(Net):
    """The data decide what is called."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.first(x)).relu()
        return self.second(y) if x.mean() > 0 else torch.cat([y, y], dim=1)


def test_batches_of_other_sizes_other_paths_and_none():
    _, report = compress(Routed(), X.abs(), calibration=[-X.abs(), X[:0], X.abs()])
    assert report.layers[1].chosen
    _, report = compress(Routed(), X.abs(), calibration=[-X.abs()])
    assert report.layers[1].chosen in (None, "dense, the same weights")
    assert "the convolution is not called" in report.layers[1].tried[-1].verdict
    larger = [torch.randn(1, 3, 11, 10)]
    _, report = compress(Net(), calibration=larger, methods=("perforated", "column_sparse"))
    verdicts = [tried.verdict for tried in report.layers[1].tried if tried.method == "perforated"]
    assert all("cannot be fitted to the calibration: ValueError: mask" in each for each in verdicts)


@pytest.mark.parametrize(
    ("method", "note"),
    [("perforated", "other sizes are refused"), ("int8", "run the model under torch.no_grad")],
)
def test_what_the_network_cannot_do_any_more_is_told(method: str, note: str):
    _, report = compress(Net(), methods=(method,))
    assert any(note in each for each in report.notes)


@dataclass
class Output:
    scores: Tensor


class GivesData(Net):
    def forward(self, x: Tensor) -> Output:
        return Output(super().forward(x))


class GivesClasses(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).argmax(dim=1)


class IsRandom(Net):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x))


class WritesToItsInput(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.sub_(0.5).mul_(2))


def test_a_loss_is_seen_in_whatever_is_given_or_asked_for():
    _, report = compress(GivesData())
    assert report.after.loss > 1e-8
    with pytest.raises(ValueError, match="evaluate: expected a function, since the model's outputs"):
        compress(GivesClasses())
    for kind in (IsRandom, WritesToItsInput):
        with pytest.raises(ValueError, match="write to its inputs, or draw random numbers"):
            compress(kind(), X.clone())


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"calibration": X}, TypeError, "calibration: expected batches, .* got a Tensor"),
        ({"calibration": 3}, TypeError, "calibration: expected batches"),
        ({"calibration": [(X, 1)]}, ValueError, "calibration: .* fails: TypeError"),
        ({"evaluate": 3}, TypeError, "evaluate: expected a function, got int"),
        ({"finetune": "yes"}, TypeError, "finetune: expected a function, got str"),
        ({"target_speedup": "2"}, TypeError, "target_speedup: expected a number, got '2'"),
        ({"seed": "a"}, TypeError, "seed: expected an int"),
        ({"methods": None}, TypeError, "methods: expected a sequence of names, got None"),
    ],
)
def test_what_is_no_argument_is_named_at_once(options: dict, kind: type[Exception], message: str):
    with pytest.raises(kind, match=message):
        compress(Net(), **options)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:The .grad attribute")
def test_models_that_cannot_be_copied_are_refused():
    with pytest.raises(ValueError, match="model: expected one that can be copied"):
        compress(nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 3, 1))))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused():
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module, got RecursiveScriptModule"):
        compress(torch.jit.script(nn.Sequential(nn.Conv2d(3, 3, 1))))


def test_networks_without_a_finite_loss_are_never_given_and_json_has_no_nan():
    calls = []

    def evaluate(model: nn.Module) -> np.float32:
        calls.append(model)
        return np.float32(1.0 if len(calls) < 9 else "nan")

    _, report = compress(Net(), evaluate=evaluate)
    assert report.after.loss == 1
    assert any(np.isinf(attempt.loss) for attempt in report.attempts)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(report.to_json(), parse_constant=refuse)
    assert "nan" not in scatter("", "", "", [Points("", [(1.0, float("inf")), (2.0, 1.0)])])


def test_a_compressed_model_is_compressed_again():
    faster, _ = compress(Net(), methods=("int8",))
    _, report = compress(faster, methods=("int8", "column_sparse"))
    ours = [name for name, layer in faster.named_modules() if isinstance(layer, cnnkern.Int8Conv2d)]
    assert ours
    assert all("Int8Conv2d" in report.left_alone[name] for name in ours)


def test_a_folder_that_cannot_be_written_to_is_refused_and_rubbish_in_it_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cache: expected a folder to write to"):
        compress(Net(), cache=tmp_path / "file")
    folder = tmp_path / "folder"
    _, first = compress(Net(), cache=folder)
    for path in folder.iterdir():
        path.write_bytes(b"rubbish")
    _, second = compress(Net(), cache=folder)
    assert [layer.chosen for layer in first.layers] == [layer.chosen for layer in second.layers]

    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(fits, "save", full)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert compress(Net(), cache=tmp_path / "other")[1].changed
    assert any("a fit is not kept: No space left" in str(each.message) for each in told)


def test_an_interrupted_search_leaves_the_model_and_goes_on_from_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model, calls = Net(), []

    def stop(model: nn.Module) -> float:
        calls.append(model)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return 1.0

    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(KeyboardInterrupt):
        compress(model, evaluate=stop, cache=tmp_path)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(each._forward_hooks for each in model.modules())
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert kept
    compress(model, cache=tmp_path)
    assert kept.items() <= {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}.items()
