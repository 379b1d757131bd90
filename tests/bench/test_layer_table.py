"""The layer table is the whole of what was agreed on, and its FLOPs are those of a count by hand."""

from itertools import product

import pytest

from bench.layers import LAYERS, RANKED, Layer

SMALL = Layer("small", 3, 4, (3, 2), 7, 6, stride=2, padding=1, ranks=(5,))


def multiply_adds_along(size: int, taps: int, stride: int, padding: int) -> list[tuple[int, int]]:
    """(output position, tap) pairs of one axis, padding included."""
    starts = range(-padding, size + padding - taps + 1, stride)
    return list(product(range(len(starts)), range(taps)))


def test_dense_flops_are_those_of_the_loops():
    rows, columns = (
        multiply_adds_along(size, taps, SMALL.stride, SMALL.padding)
        for size, taps in zip((SMALL.H, SMALL.W), SMALL.kernel, strict=True)
    )
    count = 0
    for _ in product(range(2), range(SMALL.K), range(SMALL.C), rows, columns):
        count += 2
    assert SMALL.dense_flops(batch=2) == count


def test_cp_flops_are_those_of_the_loops():
    (kH, kW), R = SMALL.kernel, SMALL.ranks[0]
    rows = multiply_adds_along(SMALL.H, kH, SMALL.stride, SMALL.padding)
    columns = multiply_adds_along(SMALL.W, kW, SMALL.stride, SMALL.padding)
    oH, oW = SMALL.output_size
    count = sum(2 for _ in product(range(R), range(SMALL.C), range(SMALL.H), range(SMALL.W)))
    count += sum(2 for _ in product(range(R), rows, range(SMALL.W)))
    count += sum(2 for _ in product(range(R), range(oH), columns))
    count += sum(2 for _ in product(range(SMALL.K), range(R), range(oH), range(oW)))
    assert SMALL.cp_flops(batch=1, rank=R) == count
    assert SMALL.cp_flops(batch=16, rank=R) == 16 * count


def test_column_sparse_flops_are_those_of_the_kept_columns():
    oH, oW = SMALL.output_size
    assert SMALL.columns == 3 * 3 * 2
    assert SMALL.column_sparse_flops(batch=2, density=0.5) == 2 * 2 * 4 * 9 * oH * oW
    assert SMALL.column_sparse_flops(batch=1, density=1.0) == SMALL.dense_flops(batch=1)
    assert SMALL.kept_columns(0.001) == 1


def test_bytes_are_input_weights_bias_and_output_once():
    elements = 2 * 3 * 7 * 6 + 4 * 3 * 3 * 2 + 4 + 2 * 4 * 4 * 4
    assert SMALL.output_size == (4, 4)
    assert SMALL.dense_bytes(batch=2) == 4 * elements
    assert SMALL.cp_bytes(batch=2, rank=5) == 4 * (elements - 4 * 3 * 3 * 2 + 5 * (3 + 3 + 2 + 4))


def test_the_published_flop_ratio_of_alexnet_conv2():
    layer = LAYERS[0]
    assert layer.dense_flops(1) / layer.cp_flops(1, 200) == pytest.approx(8.5, abs=0.02)
    assert layer.dense_flops(1) / layer.cp_flops(1, 140) == pytest.approx(12.1, abs=0.05)


def test_the_table_is_complete():
    shapes = {
        (layer.C, layer.K, layer.kernel, layer.H, layer.stride, layer.padding, layer.ranks)
        for layer in LAYERS
    }
    assert shapes == {
        (96, 256, (5, 5), 27, 1, 2, (140, 200)),
        (48, 128, (9, 9), 16, 1, 0, (64,)),
        (64, 512, (8, 8), 8, 1, 0, (64,)),
        (64, 64, (3, 3), 224, 1, 1, (32,)),
        (256, 256, (3, 3), 56, 1, 1, (128,)),
        (512, 512, (3, 3), 28, 1, 1, (256,)),
        (64, 64, (3, 3), 56, 1, 1, (48,)),
        (128, 128, (3, 3), 28, 1, 1, (96,)),
        (256, 256, (3, 3), 14, 1, 1, (192,)),
        (512, 512, (3, 3), 7, 1, 1, (384,)),
        (3, 64, (7, 7), 224, 2, 3, (16,)),
        (128, 256, (3, 3), 56, 2, 1, (128,)),
        (256, 64, (1, 1), 56, 1, 0, ()),
    }
    assert len({layer.name for layer in LAYERS}) == len(LAYERS)
    assert all(layer.H == layer.W for layer in LAYERS)
    assert len(RANKED) == 13
