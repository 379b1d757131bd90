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

from cnnkern import Int8Conv2d


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
        return self._contender(model_of(module, x), x)

    def quantized_contender(self, layer: Int8Conv2d, x: Tensor) -> "OnnxRuntimeCall":
        """`layer`, which gives integers, on the contiguous input `x`."""
        return self._contender(quantized_model_of(layer, x), x)

    def _contender(self, model: onnx.ModelProto, x: Tensor) -> "OnnxRuntimeCall":
        path = Path(self._folder.name, str(self._models))
        self._models += 1
        onnx.save(model, path.with_suffix(".onnx"))
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
        return torch.from_numpy(np.load(result)).float()

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


def quantized_model_of(layer: Int8Conv2d, x: Tensor) -> onnx.ModelProto:
    """`layer` as one QLinearConv from "x" to "y"; its bias is in integers of x_scale·weight_scale."""
    x_scale, x_zero_point, out_scale, out_zero_point = layer.numbers()
    scales = layer.weight_scale.numpy()
    tensors = {
        "x_scale": np.float32(x_scale),
        "x_zero_point": np.uint8(x_zero_point),
        "weight": layer.weight.numpy(),
        "weight_scale": scales,
        "weight_zero_point": np.zeros(len(scales), np.int8),
        "y_scale": np.float32(out_scale),
        "y_zero_point": np.uint8(out_zero_point),
        "bias": np.rint(layer.bias.numpy() / (np.float64(x_scale) * scales)).astype(np.int32),
    }
    node = helper.make_node(
        "QLinearConv",
        ["x", *tensors],
        ["y"],
        strides=layer.stride,
        pads=layer.padding * 2,
        dilations=layer.dilation,
        group=layer.groups,
    )
    graph = helper.make_graph(
        [node],
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, layer(x).shape)],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
