"""ONNX Runtime as a contender: one thread, in a process of its own that is asked for bursts over a pipe.

The model is a chain of Conv nodes written with the `onnx` package. Its input is NCHW; conversion into ONNX
Runtime's blocked layout and back is part of every call, as it is for torch.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn


class OnnxRuntime:
    """The other process; a context manager. `contender(...)` hands it a model."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="cnnkern-bench-")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.rivals.onnx_runtime_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._models = 0

    def __enter__(self) -> "OnnxRuntime":
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._folder.cleanup()

    def contender(self, module: nn.Module, x: Tensor) -> "OnnxRuntimeCall":
        """`module`, an nn.Conv2d or a chain of them, on the contiguous input `x`."""
        path = Path(self._folder.name, str(self._models))
        self._models += 1
        onnx.save(model_of(module, x), path.with_suffix(".onnx"))
        np.save(path.with_suffix(".npy"), x.numpy())
        return OnnxRuntimeCall(self, path)

    def ask(self, **request: str | int) -> float:
        """Send one request; the answer is the seconds that it took."""
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the ONNX Runtime process ended with {self._process.wait()}")
        return float(answer)


class OnnxRuntimeCall:
    """One model in the other process, as a contender."""

    name = "onnxruntime"

    def __init__(self, process: OnnxRuntime, path: Path) -> None:
        self._process, self._path = process, path

    def output(self) -> Tensor:
        result = self._path.with_suffix(".out.npy")
        self._process.ask(model=str(self._path), result=str(result))
        return torch.from_numpy(np.load(result))

    def burst(self, calls: int) -> float:
        return self._process.ask(model=str(self._path), calls=calls)


def model_of(module: nn.Module, x: Tensor) -> onnx.ModelProto:
    """The convolutions of `module`, in the order of its modules, as one ONNX graph from "x" to "y"."""
    convs = [part for part in module.modules() if isinstance(part, nn.Conv2d)]
    names = ["x", *(f"map{index}" for index in range(1, len(convs))), "y"]
    nodes, weights = [], []
    for index, conv in enumerate(convs):
        tensors = {"weight": conv.weight} | ({"bias": conv.bias} if conv.bias is not None else {})
        weights += [
            numpy_helper.from_array(tensor.detach().contiguous().numpy(), f"{kind}{index}")
            for kind, tensor in tensors.items()
        ]
        nodes.append(
            helper.make_node(
                "Conv",
                [names[index], *(f"{kind}{index}" for kind in tensors)],
                [names[index + 1]],
                strides=conv.stride,
                pads=conv.padding * 2,
                dilations=conv.dilation,
                group=conv.groups,
            )
        )
    with torch.inference_mode():
        shape = module(x).shape
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
