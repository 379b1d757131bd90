"""Our own layers are quantized like the convolutions that they took the place of."""

import pytest
import torch
from torch import Tensor, nn

from cnnkern import (
    ColumnSparseConv2d,
    CPConv2d,
    Im2colConv2d,
    Int8ColumnSparseConv2d,
    Int8CPConv2d,
    quantization,
)


class Untraceable(nn.Sequential):
    """Whose path depends on values."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > -1e9 else x


def network(kind: type[nn.Sequential] = nn.Sequential) -> nn.Sequential:
    """Four convolutions, three of them of our own, with batch norms that are not those of a start."""
    sparse = ColumnSparseConv2d(
        12, 16, 3, padding=1, groups=2, columns=torch.arange(54).view(1, -1)[:, ::2].repeat(2, 1)
    )
    model = kind(
        Im2colConv2d(3, 8, 3, padding=1, padding_mode="reflect"),
        nn.BatchNorm2d(8),
        CPConv2d(8, 12, 3, stride=2, padding=1, rank=20, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        sparse,
        nn.BatchNorm2d(16),
        nn.ReLU6(),
        nn.Conv2d(16, 5, 1),
    )
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.normal_(norm.bias)
            nn.init.normal_(norm.running_mean, std=0.1)
            nn.init.uniform_(norm.running_var, 0.1, 1)
    return model.eval()


X = torch.randn(4, 3, 15, 13, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
def test_they_become_int8_layers_that_pass_integers_on(dtype: torch.dtype) -> None:
    model = network()
    quantized, report = quantization.quantize(model, [X], dtype=dtype)
    name = str(dtype).removeprefix("torch.")
    assert not report.floats
    assert [row.kind for row in report.layers] == ["Im2colConv2d", "CPConv2d", "ColumnSparseConv2d", "Conv2d"]
    assert all((row.input, row.output) == (name, name) for row in report.layers[:3])
    assert isinstance(quantized.get_submodule("2"), Int8CPConv2d)
    assert isinstance(quantized.get_submodule("5"), Int8ColumnSparseConv2d)
    with torch.no_grad():
        exact, y = model(X), quantized(X)
    # an error of 1/10 is -20 dB, what 4 bits would give
    assert (y - exact).norm() < 0.1 * exact.norm()
    assert all(row.snr > 20 for row in report.layers)


@pytest.mark.parametrize("frozen", [False, True], ids=["batch statistics", "frozen"])
def test_training_changes_all_factors_and_ends_in_what_was_simulated(frozen: bool) -> None:
    prepared = quantization.prepare(network(), [X])
    if frozen:
        prepared.freeze_batch_norm()
    optimizer = torch.optim.SGD(prepared.parameters(), lr=1e-3)
    before = {name: value.clone() for name, value in prepared.named_parameters()}
    for _ in range(2):
        optimizer.zero_grad()
        prepared(X).square().mean().backward()
        optimizer.step()
    after = dict(prepared.named_parameters())
    weights = [
        name for name in before if name.endswith(("factor_c", "factor_h", "factor_w", "factor_k", "weight"))
    ]
    assert len(weights) >= 7
    assert not any(torch.equal(before[name], after[name]) for name in weights)
    prepared.eval()
    model, _ = prepared.convert()
    with torch.no_grad():
        assert torch.equal(prepared(X), model(X))


def test_a_model_that_cannot_be_traced_has_them_between_float_tensors() -> None:
    quantized, report = quantization.quantize(network(Untraceable), [X])
    assert report.fallback
    assert isinstance(quantized[2].layer, Int8CPConv2d)
    assert isinstance(quantized[5].layer, Int8ColumnSparseConv2d)


def test_a_layer_without_columns_stays_in_float32() -> None:
    empty = ColumnSparseConv2d(3, 4, 3, columns=torch.empty(0, dtype=torch.int32))
    _, report = quantization.quantize(nn.Sequential(empty, nn.Conv2d(4, 2, 1)), [X])
    assert report.floats["0"] == "it has no columns"
