"""Memory of a step: what it allocates at once, and nothing that was there before."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch

from bench.layers import Layer
from bench.training_memory import peak_extra_bytes, training_memory

MEBIBYTE = 1 << 20


def step() -> None:
    """8 and 4 MiB at once, then 2 MiB."""
    first, second = torch.ones(2 * MEBIBYTE), torch.ones(MEBIBYTE)
    del first, second
    torch.ones(MEBIBYTE // 2)


def test_the_peak_is_what_lives_at_once():
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(peak_extra_bytes, step).result()
    assert found == pytest.approx(12 * MEBIBYTE, rel=0.1)


def test_four_stock_convolutions_hold_their_maps():
    layer = Layer("wide", 16, 16, (3, 3), 64, 64, padding=1, ranks=(32,))
    found = training_memory(layer, 32, 4, "torch/contiguous", threads=1)
    rank_map, output = 4 * 4 * 32 * 64 * 64, 4 * 4 * 16 * 64 * 64
    assert 3 * rank_map + output < found < 7 * rank_map + 3 * output
