"""A network in stock torch in a process of its own: requests on stdin, the seconds of each on stdout.

    python -m bench.rivals.torch_server compile|int8 PACKAGE.MODULE:FACTORY THREADS

The network is what the factory makes. `compile` is `torch.compile`; `int8` is torch's own quantization after
training (`torch.ao`, engine x86).

{"model": DIR/LAYOUT, "calls": n}                      time n calls in a row on DIR/LAYOUT.npy
{"model": DIR/LAYOUT, "result": FILE, "input": FILE}   one call on that input, or the same; keep the output

LAYOUT is contiguous or channels_last. DIR/network.safetensors has the weights, DIR/calibration.npy the images
that int8 is calibrated on.
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


def network(factory: str, state: Path) -> nn.Module:
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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates them
        from torch.ao.quantization import get_default_qconfig_mapping
        from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

        torch.backends.quantized.engine = "x86"
        prepared = prepare_fx(float_network, get_default_qconfig_mapping("x86"), (images[:1],))
        for some in images.split(CALIBRATION_BATCH):
            prepared(some)
        return convert_fx(prepared)


def main() -> None:
    kind, factory, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))

    @lru_cache(maxsize=2)
    def load(path: Path) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        memory_format = FORMATS[path.name]
        model = network(factory, path.with_name("network.safetensors")).to(memory_format=memory_format)
        if kind == "int8":
            images = np.load(path.with_name("calibration.npy"))
            model = quantized(model, in_format(images, memory_format))
        else:
            model = torch.compile(model)
        return model, in_format(np.load(path.with_suffix(".npy")), memory_format)

    for line in sys.stdin:
        request = json.loads(line)
        path = Path(request["model"])
        model, x = load(path)
        if "input" in request:
            x = in_format(np.load(request["input"]), FORMATS[path.name])
        with torch.no_grad():
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
