"""CP fits side by side, each in a process with one thread: a fit's many small steps share badly."""

import multiprocessing
import time
from collections.abc import Hashable, Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from cnnkern import CPConv2d

Key = TypeVar("Key", bound=Hashable)


@contextmanager
def fitting_pool(processes: int) -> Iterator[Executor]:
    """Processes that fit, for as long as the block lasts; what has not begun by then is dropped."""
    # Not forked: a child that inherits torch's thread pool can hang in it.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, torch.set_num_threads, (1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def fit_layers(
    pool: Executor, jobs: Mapping[Key, tuple[nn.Conv2d, int]]
) -> Iterator[tuple[Key, CPConv2d, float]]:
    """(key, layer in eval mode, seconds) for each convolution and rank in ``jobs``, as they finish."""

    def size(job: tuple[nn.Conv2d, int]) -> int:
        conv, rank = job
        return conv.weight.numel() * rank

    # The largest first, so that no process is left alone with a long fit at the end.
    ordered = sorted(jobs, key=lambda key: size(jobs[key]), reverse=True)
    futures = {pool.submit(_fit, *jobs[key]): key for key in ordered}
    for future in as_completed(futures):
        yield futures[future], *future.result()


def _fit(conv: nn.Conv2d, rank: int) -> tuple[CPConv2d, float]:
    start = time.perf_counter()
    layer = CPConv2d.from_conv(conv, rank=rank, verbose=False).eval()
    return layer, time.perf_counter() - start
