"""A network in stock torch as a contender, compiled or quantized by torch, in a process of its own."""

from collections.abc import Sequence

import numpy as np
from safetensors.torch import save_file
from torch import Tensor, nn

from bench.rivals.process import RivalCall, RivalProcess
from bench.rivals.torch_server import FORMATS

LAYOUTS = tuple(FORMATS)


class TorchNetwork(RivalProcess):
    """The other process.

    Args:
        kind: "compile" or "int8"; see torch_server.py.
        factory: "package.module:function", which makes the network without its weights.
        threads: of torch there.
    """

    def __init__(self, kind: str, factory: str, threads: int) -> None:
        super().__init__("bench.rivals.torch_server", kind, factory, str(threads))

    def contenders(self, network: nn.Module, x: Tensor, calibration: Tensor) -> Sequence[RivalCall]:
        """The network with these weights on `x` in each layout; `calibration` is images like it."""
        save_file(
            {name: value.contiguous() for name, value in network.state_dict().items()},
            self.folder / "network.safetensors",
        )
        for layout in LAYOUTS:
            np.save(self.folder / f"{layout}.npy", x.contiguous().numpy())
        np.save(self.folder / "calibration.npy", calibration.contiguous().numpy())
        return [RivalCall(layout, self, self.folder / layout) for layout in LAYOUTS]
