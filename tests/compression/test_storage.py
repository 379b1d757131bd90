"""A changed model is read back as it was, in another process too; a file that does not fit says where."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import cnnkern
from cnnkern import ColumnSparseConv2d, CPConv2d, Im2colConv2d, PerforatedConv2d
from cnnkern.nn import ConvolutionChain, Int8Conv2d, Int8Linear
from tests.compression.nets import Branches, chain
from tests.nn.layers import ARGUMENTS, LAYERS, Layer, build, image

X = torch.linspace(-1, 1, 2 * 3 * 20 * 20).view(2, 3, 20, 20)


def compressed() -> nn.Sequential:
    """`chain` with a layer of each kind in it."""
    model = chain()
    conv = model[4]
    narrow = nn.Conv2d(48, 8, (3, 1), stride=(2, 1), padding=(1, 0), bias=False)
    wide = nn.Conv2d(8, 32, (1, 3), stride=(1, 2), padding=(0, 1))
    model[4] = ConvolutionChain(ColumnSparseConv2d.from_conv(narrow, density=0.5), wide).eval()
    assert model[4](torch.ones(1, 48, 20, 20)).shape == conv(torch.ones(1, 48, 20, 20)).shape
    model[0] = PerforatedConv2d.from_conv(model[0], rate=0.5, input_size=(20, 20))
    model[2] = CPConv2d(16, 48, 5, padding=2, rank=16).eval()
    return model


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    cnnkern.save(compressed(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def altered(path: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], None]) -> Path:
    """A copy of the file with its recipe and tensors changed."""
    with safe_open(path, framework="pt") as file:
        recipe = json.loads(file.metadata()["cnnkern"])
    tensors = load_file(path)
    change(recipe, tensors)
    save_file(tensors, path.with_name("altered"), metadata={"cnnkern": json.dumps(recipe)})
    return path.with_name("altered")


def test_the_model_comes_back(saved: Path):
    plain, model = chain(), compressed()
    before = copy.deepcopy(plain.state_dict())
    restored = cnnkern.load(saved, plain)
    assert repr(restored) == repr(model)
    assert not any(module.training for module in restored.modules())
    with torch.no_grad():
        torch.testing.assert_close(restored(X), model(X))
    assert repr(plain) == repr(chain())
    assert all(torch.equal(before[name], tensor) for name, tensor in plain.state_dict().items())


def test_another_process_needs_the_plain_constructor_alone(saved: Path, tmp_path: Path):
    code = (
        "import sys, torch, cnnkern\n"
        "from tests.compression.nets import chain\n"
        "x = torch.linspace(-1, 1, 2 * 3 * 20 * 20).view(2, 3, 20, 20)\n"
        "with torch.no_grad():\n"
        "    torch.save(cnnkern.load(sys.argv[1], chain())(x), sys.argv[2])\n"
    )
    out = tmp_path / "y.pt"
    subprocess.run([sys.executable, "-c", code, str(saved), str(out)], check=True)
    with torch.no_grad():
        torch.testing.assert_close(torch.load(out), compressed()(X))


@pytest.mark.parametrize("kind", LAYERS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=ARGUMENTS)
def test_every_layer_with_every_argument(kind: type[Layer], arguments: dict[str, Any], tmp_path: Path):
    layer = build(kind, **arguments).eval()
    cnnkern.save(layer, tmp_path / "layer")
    restored = cnnkern.load(tmp_path / "layer", Im2colConv2d(6, 12, **arguments).to_conv().eval())
    assert repr(restored) == repr(layer)
    x = image(layer)
    with torch.no_grad():
        assert torch.equal(restored(x), layer(x))


def test_a_folded_batch_norm_comes_back(tmp_path: Path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)).eval()
    folded = nn.Sequential(nn.utils.fuse_conv_bn_eval(*model), nn.Identity())
    cnnkern.save(folded, tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(cnnkern.load(tmp_path / "model", model)(X), folded(X))


@pytest.mark.parametrize("out_scale", [None, 0.25])
@pytest.mark.parametrize("x_dtype", [torch.uint8, torch.int8])
def test_int8_layers_come_back(tmp_path: Path, out_scale: float | None, x_dtype: torch.dtype):
    numbers = {"x_scale": 0.1, "x_zero_point": 3, "out_scale": out_scale, "x_dtype": x_dtype}
    conv, linear = nn.Conv2d(3, 4, 3, stride=2, bias=False).eval(), nn.Linear(20, 5).eval()
    for plain, layer in (
        (conv, Int8Conv2d.from_conv(conv, **numbers, activation="relu")),
        (linear, Int8Linear.from_linear(linear, **numbers)),
    ):
        cnnkern.save(layer, tmp_path / "layer")
        restored = cnnkern.load(tmp_path / "layer", plain)
        assert repr(restored) == repr(layer)
        with torch.no_grad():
            assert torch.equal(restored(X), layer(X))


def test_shared_modules_stay_shared_and_others_are_parted(tmp_path: Path):
    def plain(shared: bool) -> nn.ModuleDict:
        first = nn.Conv2d(3, 3, 3)
        return nn.ModuleDict({"a": first, "b": first if shared else nn.Conv2d(3, 3, 3)})

    model = plain(shared=True)
    layer = ColumnSparseConv2d.from_conv(model["a"], density=0.5)
    cnnkern.save(nn.ModuleDict({"a": layer, "b": layer}), tmp_path / "shared")
    cnnkern.save(nn.ModuleDict({"a": layer, "b": model["b"]}), tmp_path / "parted")
    for there in (True, False):
        restored = cnnkern.load(tmp_path / "shared", plain(there))
        assert restored["a"] is restored["b"]
        restored = cnnkern.load(tmp_path / "parted", plain(there))
        assert type(restored["b"]) is nn.Conv2d
        assert torch.equal(restored["b"].weight, model["a"].weight)


def test_tied_parameters_stay_tied(tmp_path: Path):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    cnnkern.save(model, tmp_path / "model")
    assert set(load_file(tmp_path / "model")) == {"0.weight", "0.bias", "1.bias"}
    restored = cnnkern.load(tmp_path / "model", nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    assert restored[0].weight is restored[1].weight


def test_memory_format_and_dtype_are_kept(tmp_path: Path):
    model = chain().double().to(memory_format=torch.channels_last)
    cnnkern.save(model, tmp_path / "model")
    weight = cnnkern.load(tmp_path / "model", chain())[2].weight
    assert weight.dtype is torch.float64
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_frozen_places_stay_frozen(saved: Path):
    plain = chain()
    plain[2].requires_grad_(False)
    restored = cnnkern.load(saved, plain)
    assert not any(parameter.requires_grad for parameter in restored[2].parameters())
    assert all(parameter.requires_grad for parameter in restored[4].parameters())


def test_a_failed_save_leaves_the_old_file(saved: Path):
    before = saved.read_bytes()
    with pytest.raises(ValueError, match=r"layer '': mask: expected one that is made"):
        cnnkern.save(PerforatedConv2d.from_conv(nn.Conv2d(3, 4, 3), rate=0.5), saved)
    with pytest.raises(ValueError, match="expected dense tensors with values, got 'weight' without"):
        cnnkern.save(nn.Linear(2, 2, device="meta"), saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def set_argument(name: str, key: str, value: Any) -> Callable[[dict, dict], None]:
    return lambda recipe, tensors: recipe["modules"][name]["arguments"].update({key: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r, t: r.update(format=2), "expected a recipe of format 1, got 2"),
        (lambda r, t: r["modules"]["2"].update(layer="Popen"), "'2': expected one of .*, got 'Popen'"),
        (lambda r, t: r.update(modules=[1]), "expected an object of layers by name"),
        (
            lambda r, t: r["modules"].update({"2.x": r["modules"]["2"]}),
            "'2.x': expected a module of this name",
        ),
        (
            lambda r, t: r["modules"].update({"1": r["modules"]["2"]}),
            "'1': CPConv2d in the file cannot be ReLU",
        ),
        (lambda r, t: r["modules"].update({"1": {"same_as": "9"}}), "'1': expected another layer's name"),
        (set_argument("2", "device", "cuda"), "'2': expected arguments among"),
        (set_argument("2", "rank", -1), "'2': rank: expected at least 1"),
        (set_argument("2", "rank", 17), "'2.factor_c' is .16, 16. in the file and .17, 16. in the model"),
        (set_argument("2", "stride", [2, 2]), "'2': stride is .2, 2. in the file and .1, 1. in the model"),
        (set_argument("0", "mask", {"tensor": "elsewhere"}), "'0': expected a tensor '0.elsewhere'"),
        (lambda r, t: t["4.0.columns"].fill_(999), "'4.0': columns: expected strictly increasing"),
        (lambda r, t: t["4.0.columns"].add_(10**6), "'4.0': columns: expected indices from 0 to"),
        (set_argument("4.0", "columns", list(range(72))), "'4.0': columns: expected indices from 0 to"),
        (lambda r, t: t.pop("8.bias"), "the file has no '8.bias'"),
        (lambda r, t: t.update(extra=torch.ones(1)), "the model has no 'extra'"),
        (lambda r, t: t.update({"8.bias": torch.ones(7).int()}), "'8.bias' is torch.int32 in the file"),
        (lambda r, t: r.update(tied={"a": "b"}), "expected tied names"),
        (lambda r, t: r.update(channels_last=["8.bias"]), "expected channels_last names"),
    ],
)
def test_a_file_that_does_not_fit_says_where(saved: Path, change: Callable, message: str):
    if "indices" in message:  # loaded past the constructor

        def both(recipe: dict, tensors: dict) -> None:
            change(recipe, tensors)
            tensors["4.0.columns"] = tensors["4.0.columns"] + (10**6)

        path = altered(saved, both)
    else:
        path = altered(saved, change)
    with pytest.raises(ValueError, match=message) as raised:
        cnnkern.load(path, chain())
    assert str(path) in str(raised.value)


def test_another_model_does_not_fit(saved: Path):
    with pytest.raises(ValueError, match="layer '0': expected a module of this name in the model, got none"):
        cnnkern.load(saved, Branches())


def test_other_files_are_refused(tmp_path: Path):
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ValueError, match="expected a safetensors file"):
        cnnkern.load(tmp_path / "text", chain())
    save_file({"x": torch.ones(1)}, tmp_path / "plain")
    with pytest.raises(ValueError, match="got one without a recipe"):
        cnnkern.load(tmp_path / "plain", chain())
    with pytest.raises(FileNotFoundError):
        cnnkern.load(tmp_path / "nothing", chain())
