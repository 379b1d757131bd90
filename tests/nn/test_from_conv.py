"""A trained nn.Conv2d becomes one of our layers."""

import pytest
import torch
from torch import nn

from cnnkern.decomposition import cp
from cnnkern.nn import CPConv2d, Im2colConv2d
from tests.nn.layers import ARGUMENTS, LAYERS, Layer, assert_computes, convert, image


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=ARGUMENTS)
def test_im2col_computes_what_the_conv_does_with_a_copy_of_its_weights(arguments: dict) -> None:
    conv = nn.Conv2d(6, 12, **arguments).eval()
    layer = Im2colConv2d.from_conv(conv)
    assert torch.equal(layer.weight, conv.weight)
    assert layer.weight.data_ptr() != conv.weight.data_ptr()
    x = image(layer)
    with torch.no_grad():
        assert_computes(conv(x), layer, x)
        assert_computes(layer(x), layer, x)


@pytest.mark.parametrize("groups", [1, 3])
def test_cp_has_the_factors_that_the_decomposition_gives_for_each_group(groups: int) -> None:
    conv = nn.Conv2d(6, 9, (3, 2), padding=1, groups=groups, dtype=torch.float64).eval()
    layer = CPConv2d.from_conv(conv, rank=6, method="als", seed=3)
    assert (layer.rank, layer.groups, layer.padding) == (6, groups, (1, 1))
    fits = [cp(part, 6 // groups, method="als", seed=3) for part in conv.weight.detach().chunk(groups)]
    expected = torch.cat([fit.reconstruct() for fit in fits])
    torch.testing.assert_close(layer.to_conv().weight.detach(), expected)
    assert torch.equal(layer.bias, conv.bias)
    x = image(layer)
    with torch.no_grad():
        assert_computes(layer(x), layer, x)


def test_cp_reproduces_a_conv_that_has_the_rank() -> None:
    weight = CPConv2d(5, 7, 3, rank=2).to_conv().weight
    conv = nn.Conv2d(5, 7, 3)
    conv.weight = weight
    difference = CPConv2d.from_conv(conv, rank=2).to_conv().weight - weight
    assert difference.norm() < 1e-6 * weight.norm()  # what decomposition.cp promises


def test_cp_with_a_rank_that_the_groups_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="rank: expected a multiple of groups=2, got 5"):
        CPConv2d.from_conv(nn.Conv2d(4, 4, 3, groups=2), rank=5)


@pytest.mark.parametrize("kind", LAYERS)
def test_dtype_mode_and_what_is_trained_are_kept(kind: type[Layer]) -> None:
    conv = nn.Conv2d(3, 4, 2, dtype=torch.float64).eval()
    conv.weight.requires_grad_(False)
    layer = convert(kind, conv)
    assert not layer.training
    assert {p.dtype for p in layer.parameters()} == {torch.float64}
    assert {name for name, p in layer.named_parameters() if p.requires_grad} == {"bias"}
    back = layer.to_conv()
    assert not back.weight.requires_grad
    assert back.bias.requires_grad


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(
    "other", [nn.Conv1d(3, 4, 2), nn.ConvTranspose2d(3, 4, 2), nn.LazyConv2d(4, 2), None]
)
def test_anything_but_a_conv2d_is_refused(kind: type[Layer], other: object) -> None:
    with pytest.raises(TypeError, match=f"conv: expected a torch.nn.Conv2d, got {type(other).__name__}"):
        convert(kind, other)
