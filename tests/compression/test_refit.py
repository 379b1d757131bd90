"""A refit finds weights that are there to be found, and never makes a layer worse on what was held out."""

import pytest
import torch
from torch import nn

from cnnkern import ColumnSparseConv2d, CPConv2d, Im2colConv2d, PerforatedConv2d
from cnnkern.compression.refit import refit, relative_error
from cnnkern.nn import ConvolutionChain

GEOMETRY = {"kernel_size": 3, "stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)}


def layers() -> dict[str, nn.Module]:
    mask = torch.ones(5, 12, dtype=torch.bool)
    mask[1::2, 2] = False
    return {
        "dense": Im2colConv2d(4, 6, **GEOMETRY),
        "stock": nn.Conv2d(4, 6, **GEOMETRY, padding_mode="reflect"),
        "cp": CPConv2d(4, 6, **GEOMETRY, rank=8),
        "column-sparse": ColumnSparseConv2d(4, 6, **GEOMETRY, columns=list(range(0, 36, 2))),
        "perforated": PerforatedConv2d(4, 6, **GEOMETRY, mask=mask),
        "same": nn.Conv2d(4, 6, (3, 2), padding="same", bias=False),
        "chain": ConvolutionChain(nn.Conv2d(4, 5, 1), Im2colConv2d(5, 6, **GEOMETRY)),
    }


def last_weight(layer: nn.Module) -> torch.Tensor:
    owner = layer[-1] if isinstance(layer, ConvolutionChain) else layer
    return owner.factor_k if isinstance(owner, CPConv2d) else owner.weight


@pytest.mark.parametrize("kind", layers())
def test_a_last_map_that_was_changed_is_found_again(kind: str):
    layer = layers()[kind].eval()
    x = torch.randn(8, 4, 9, 12)
    with torch.no_grad():
        pairs = [(part, layer(part).clone()) for part in x.split(5)]
        last_weight(layer).mul_(0.5).add_(0.1)
        found = refit(layer, pairs)
        assert relative_error(layer, pairs) > 0.3
    assert found.after < 0.01 < 0.3 < found.before
    assert relative_error(found.layer, pairs) < 0.01
    assert type(found.layer) is type(layer)


def test_noise_changes_nothing_for_the_worse():
    layer = nn.Conv2d(4, 6, 3)
    x = torch.randn(2, 4, 6, 6)
    found = refit(layer, [(x, layer(x).detach())])
    assert found.after <= found.before
    assert relative_error(found.layer, [(x, layer(x).detach())]) < 1e-5


@pytest.mark.parametrize("layer", [nn.Conv2d(4, 6, 3, groups=2), CPConv2d(4, 6, 3, groups=2, rank=4)])
def test_layers_with_groups_stay(layer: nn.Module):
    x = torch.randn(1, 4, 5, 5)
    found = refit(layer.eval(), [(x, torch.ones(1, 6, 3, 3))])
    assert found.before == found.after
    assert all(torch.equal(a, b) for a, b in zip(layer.parameters(), found.layer.parameters(), strict=True))
