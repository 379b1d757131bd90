"""ONNX Runtime as a contender: in a process of its own that is asked for bursts over a pipe.

Layers become models written with the `onnx` package: chains of Conv nodes. The input is NCHW; conversion into
ONNX Runtime's blocked layout and back is part of every call, as it is for torch.
"""

import io
import warnings

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from bench.rivals.process import RivalCall, RivalProcess
from cnnkern import Int8Conv2d


class OnnxRuntime(RivalProcess):
    """The other process; `contender(...)` hands it a model."""

    def __init__(self, threads: int = 1) -> None:
        super().__init__("bench.rivals.onnx_runtime_server", str(threads))
        self._models = 0

    def contender(self, module: nn.Module, x: Tensor) -> RivalCall:
        """`module`, an nn.Conv2d or a chain of them, on the contiguous input `x`."""
        return self._contender(model_of(module, x), x)

    def quantized_contender(self, layer: Int8Conv2d, x: Tensor) -> RivalCall:
        """`layer`, which gives integers, on the contiguous input `x`."""
        return self._contender(quantized_model_of(layer, x), x)

    def exported_contender(self, network: nn.Module, x: Tensor) -> RivalCall:
        """`network`, exported by torch, on the contiguous input `x`."""
        return self._contender(exported(network, x), x)

    def _contender(self, model: onnx.ModelProto, x: Tensor) -> RivalCall:
        path = self.folder / str(self._models)
        self._models += 1
        onnx.save(model, path.with_suffix(".onnx"))
        np.save(path.with_suffix(".npy"), x.contiguous().numpy())
        return RivalCall("onnxruntime", self, path)


def exported(network: nn.Module, x: Tensor) -> onnx.ModelProto:
    """A network in eval mode as an ONNX graph from "x" to "y", of any number of images."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about its own dependencies
        torch.onnx.export(
            network,
            (x.contiguous(),),
            file,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "images"}, "y": {0: "images"}},
            dynamo=False,
        )
    return onnx.load_from_string(file.getvalue())


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
