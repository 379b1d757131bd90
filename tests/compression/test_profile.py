"""A profile names every layer that a run calls, adds up, and leaves the model as it was."""

import json
import xml.etree.ElementTree as ET

import pytest
import torch
from torch import nn

import cnnkern
from cnnkern import CPConv2d
from tests.compression.nets import Branches, chain


@pytest.fixture(scope="module")
def branches() -> cnnkern.compression.Profile:
    return cnnkern.profile(Branches(), torch.randn(2, 3, 8, 8), seconds=1e-3)


def test_each_layer_appears_once_in_the_order_of_its_first_call(branches: cnnkern.compression.Profile):
    assert [layer.name for layer in branches.layers] == ["first", "norm", "twice", "linear"]
    assert [layer.calls for layer in branches.layers] == [1, 1, 2, 1]
    assert branches.layers[0].output_shape == (2, 16, 8, 8)


def test_totals_are_sums(branches: cnnkern.compression.Profile):
    once = 2 * 2 * 64 * 16 * 9
    assert branches.flops == once * 3 + 2 * once * 16 + 2 * 2 * 16 * 64 + 2 * 2 * 16 * 5
    assert branches.parameters == sum(p.numel() for p in Branches().parameters())
    assert branches.whole.rounds >= 5
    assert branches.seconds > 0
    assert sum(branches.by_kind().values()) >= branches.seconds * (1 - 1e-9)


def test_all_of_it_is_in_table_json_and_picture(branches: cnnkern.compression.Profile):
    for text in (str(branches), branches.to_json()):
        for word in ("first", "twice", "Conv2d", "Linear"):
            assert word in text
    document = json.loads(branches.to_json())
    assert document["totals"]["flops"] == branches.flops
    assert document["layers"][2]["calls"] == 2
    shown = "".join(ET.fromstring(branches.picture()).itertext())
    assert "Conv2d" in shown
    assert "%" in shown


def test_the_picture_is_written_to_a_file(branches: cnnkern.compression.Profile, tmp_path):
    branches.save_picture(tmp_path / "folder" / "share.svg")
    assert (tmp_path / "folder" / "share.svg").read_text(encoding="utf-8") == branches.picture()


def test_the_model_is_left_as_it_was():
    model = chain().train()
    model[2] = CPConv2d(16, 48, 5, padding=2, rank=16)
    model[4].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    profile = cnnkern.profile(model, torch.randn(1, 3, 20, 20), seconds=1e-3)
    assert profile.layers[2].kind == "CPConv2d"
    assert [module.training for module in model] == [index != 4 for index in range(9)]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    "example", [(torch.ones(1, 3, 8, 8), 2.0), {"x": torch.ones(1, 3, 8, 8), "scale": 2.0}]
)
def test_arguments_by_position_and_by_name(example: tuple | dict):
    assert cnnkern.profile(Branches(), example, seconds=1e-3).input_shape == (1, 3, 8, 8)


def test_a_single_layer_is_a_model():
    profile = cnnkern.profile(nn.Conv2d(3, 4, 3), torch.ones(1, 3, 5, 5), seconds=1e-3)
    assert "(model)" in str(profile)


def test_what_cannot_be_profiled_is_named():
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module, got function"):
        cnnkern.profile(chain, torch.ones(1))
    with pytest.raises(ValueError, match="seconds: expected more than 0, got 0"):
        cnnkern.profile(chain(), torch.ones(1), seconds=0)
