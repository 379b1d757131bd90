"""Peak extra memory of a training step, as Linux counts it: the resident pages of a process of its own.

Each measurement runs in a fork of a clean process. After a warm-up step, freed blocks are handed back, the
peak counter is reset, and one more step shows how far the resident set rises above what it was: outputs,
saved intermediates, gradients and scratch, whoever allocated them.
"""

import ctypes
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from bench import contests
from bench.layers import Layer

M_MMAP_THRESHOLD = -3  # of mallopt(3)
KIBIBYTE = 1024


def training_memory(layer: Layer, rank: int, batch: int, contender: str, threads: int) -> int:
    """Bytes that one step of `contender` (as `contests.training` names them) adds at its peak."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(sender, layer, rank, batch, contender, threads))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise RuntimeError(f"measuring the memory of {contender} on {layer.name} failed") from None
    finally:
        process.join()


def _measure(sender: Connection, layer: Layer, rank: int, batch: int, contender: str, threads: int) -> None:
    torch.set_num_threads(threads)
    calls = {call.name: call for call in contests.training(layer, rank, batch).contenders}
    sender.send(peak_extra_bytes(calls[contender].run))


def peak_extra_bytes(step: Callable[[], object]) -> int:
    """How far a second `step()` raises this process's resident set above where it found it."""
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, 64 * KIBIBYTE)  # blocks that matter are unmapped when freed
    step()
    libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status_bytes("VmRSS")
    step()
    return _status_bytes("VmHWM") - before


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * KIBIBYTE
    raise RuntimeError(f"/proc/self/status has no {field}")
