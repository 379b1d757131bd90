"""A trained nn.Conv2d becomes one of our layers."""

import pytest
import torch
from torch import nn

from cnnkern import pruning
from cnnkern.decomposition import cp
from cnnkern.nn import ColumnSparseConv2d, CPConv2d, Im2colConv2d
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


@pytest.mark.parametrize("groups", [1, 3])
def test_column_sparse_keeps_the_columns_of_the_largest_norm_in_each_group(groups: int) -> None:
    conv = nn.Conv2d(6, 9, (3, 2), padding=1, groups=groups).eval()
    layer = ColumnSparseConv2d.from_conv(conv, density=0.25)
    total = 36 // groups
    norms = conv.weight.detach().view(groups, 9 // groups, total).norm(dim=1)
    least_kept = norms.topk(round(total / 4)).values[:, -1:]
    kept = norms >= least_kept
    assert torch.equal(layer.columns.view(groups, -1), kept.nonzero()[:, 1].int().view(groups, -1))
    expected = conv.weight * kept[:, None].expand(-1, 9 // groups, -1).reshape(conv.weight.shape)
    assert torch.equal(layer.to_conv().weight, expected)
    assert torch.equal(layer.bias, conv.bias)
    x = image(layer)
    with torch.no_grad():
        assert_computes(layer(x), layer, x)


@pytest.mark.parametrize("groups", [1, 3])
def test_column_sparse_keeps_the_columns_that_a_criterion_finds(groups: int) -> None:
    net = nn.Sequential(nn.Conv2d(6, 9, 3, groups=groups), nn.ReLU(), nn.Conv2d(9, 2, 1)).eval()
    batches = [torch.randn(2, 6, 5, 7)]

    def loss(_: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return net(batch).square().mean()

    layer = ColumnSparseConv2d.from_conv(net[0], density=0.2, criterion=pruning.fisher(loss, batches))
    kept = pruning.strongest(pruning.fisher(loss, batches)(net, ["0"]), 0.2)["0"]
    assert torch.equal(layer.columns.view(groups, -1), kept.nonzero()[:, 1].int().view(groups, -1))


@pytest.mark.parametrize("columns", [[], [7], [0, 8, 53], torch.arange(54)], ids=len)
def test_column_sparse_keeps_the_columns_it_is_told_to(columns: object) -> None:
    conv = nn.Conv2d(6, 9, 3).eval()
    layer = ColumnSparseConv2d.from_conv(conv, columns=columns)
    kept = torch.as_tensor(columns, dtype=torch.int32)
    assert torch.equal(layer.columns, kept)
    assert torch.equal(layer.weight, conv.weight.flatten(1)[:, kept])
    x = image(layer)
    with torch.no_grad():
        assert_computes(layer(x), layer, x)
        assert_computes(layer.to_stock()(x), layer, x)


def test_column_sparse_groups_may_keep_no_columns() -> None:
    assert ColumnSparseConv2d.from_conv(nn.Conv2d(6, 9, 3, groups=3), columns=[[]] * 3).weight.shape == (9, 0)


@pytest.mark.parametrize(("density", "kept"), [(0, 0), (1e-9, 1), (0.5, 27), (1, 54)])
def test_column_sparse_keeps_one_column_at_least_of_any_density_above_zero(density: float, kept: int) -> None:
    assert len(ColumnSparseConv2d.from_conv(nn.Conv2d(6, 9, 3), density=density).columns) == kept


def test_column_sparse_is_a_smaller_stock_conv_where_channels_are_left_out() -> None:
    layer = ColumnSparseConv2d.from_conv(nn.Conv2d(6, 9, 3), columns=[9, 10, 45])
    _, conv = layer.to_stock()
    assert conv.in_channels == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "columns, density: expected one of them"),
        ({"columns": [0], "density": 0.5}, "columns, density: expected one of them"),
        ({"density": 1.5}, "density: expected a share from 0 to 1, got 1.5"),
        ({"density": 0.5, "criterion": "l3"}, "criterion: expected 'l2' or a function, got 'l3'"),
        ({"density": 0.5, "criterion": lambda *_: {"": torch.ones(1, 9)}}, r"criterion: .* \(1, 54\)"),
        ({"columns": [54]}, "columns: expected indices from 0 to 53, got 54 to 54"),
        (
            {"columns": [[0, 1], [2]]},
            r"columns: expected ints, as many in each group, got \[\[0, 1\], \[2\]\]",
        ),
        ({"columns": [None]}, r"columns: expected ints, .* got \[None\]"),
        ({"columns": [2**70]}, r"columns: expected ints, .* got \[1180"),
    ],
)
def test_column_sparse_refuses_what_cannot_be(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ColumnSparseConv2d.from_conv(nn.Conv2d(6, 9, 3), **arguments)


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
