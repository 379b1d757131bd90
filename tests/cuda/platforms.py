"""Where the CUDA kernels run in tests: on a GPU, and emulated, where CPU tensors stand for CUDA ones."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.emulator.build import load_library


@dataclass(frozen=True)
class Platform:
    """`operations` has the signatures of torch.ops.cnnkern and takes tensors on `device`."""

    name: str
    operations: Any
    device: str

    def take(self, tensor: Tensor | None) -> Tensor | None:
        """The tensor on the device, its strides and the memory around it as they are."""
        if tensor is None or self.device == "cpu":
            return tensor
        memory = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
        return memory.to(self.device).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def platform(name: str) -> Platform:
    if name == "emulated":
        return Platform(name, load_library(), "cpu")
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU that torch can use")
    return Platform(name, torch.ops.cnnkern, "cuda")
