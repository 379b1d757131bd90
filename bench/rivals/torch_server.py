"""A network in stock torch in a process of its own: requests on stdin, the seconds of each on stdout.

    python -m bench.rivals.torch_server compile|int8 PACKAGE.MODULE:FACTORY STATE THREADS

The network is what the factory makes, with the tensors of a safetensors file. `compile` is `torch.compile`;
`int8` is torch's own quantization after training (`torch.ao`, engine x86), calibrated on PATH.calibration.npy.

{"model": PATH, "calls": n}                           time n calls in a row on PATH.npy
{"model": PATH, "result": FILE, "input": FILE.npy}    one call on that input or else PATH.npy, its output kept

The memory format of PATH is its file name: contiguous or channels_last.
"""

import importlib
import json
import sys
import time
import warnings
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
CALIBRATION_BATCH = 16


def network(factory: str, state: str) -> nn.Module:
    module, _, name = factory.partition(":")
    made = getattr(importlib.import_module(module), name)()
    made.load_state_dict(load_file(state))
    return made.eval()


def in_format(x: np.ndarray, memory_format: torch.memory_format) -> Tensor:
    # a copy: with one channel, strides are left as they are elsewhere
    values = torch.from_numpy(x)
    return torch.empty_like(values, memory_format=memory_format).copy_(values)


def quantized(float_network: nn.Module, images: Tensor) -> nn.Module:
    """torch's own int8 network, calibrated on the images."""
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    torch.backends.quantized.engine = "x86"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates them
        prepared = prepare_fx(float_network, get_default_qconfig_mapping("x86"), (images[:1],))
        for some in images.split(CALIBRATION_BATCH):
            prepared(some)
        return convert_fx(prepared)


def main() -> None:
    kind, factory, state, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))

    @lru_cache(maxsize=2)
    def load(path: str) -> tuple[Callable[[Tensor], Tensor], Tensor, torch.memory_format]:
        memory_format = FORMATS[Path(path).name]
        model = network(factory, state)
        if kind == "int8":
            model = quantized(model, torch.from_numpy(np.load(f"{path}.calibration.npy")))
        else:
            model = torch.compile(model.to(memory_format=memory_format))
        return model, in_format(np.load(f"{path}.npy"), memory_format), memory_format

    for line in sys.stdin:
        request = json.loads(line)
        model, x, memory_format = load(request["model"])
        if "input" in request:
            x = in_format(np.load(request["input"]), memory_format)
        with torch.inference_mode():
            run = partial(model, x)
            start = time.perf_counter()
            for _ in range(request.get("calls", 1)):
                y = run()
            seconds = time.perf_counter() - start
        if "result" in request:
            np.save(request["result"], y.float().numpy())
        print(seconds, flush=True)


if __name__ == "__main__":
    main()
