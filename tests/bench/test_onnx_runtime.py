"""The rival in the other process computes what torch does, and is timed there."""

import pytest
import torch
from torch import nn

from bench.rivals.onnx_runtime import OnnxRuntime, model_of
from bench.timing import check
from cnnkern import Int8Conv2d


def four_convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(6, 4, 1, bias=False),
        nn.Conv2d(4, 4, (3, 1), (2, 1), (1, 0), groups=4, bias=False),
        nn.Conv2d(4, 4, (1, 5), (1, 3), (0, 2), groups=4, bias=False),
        nn.Conv2d(4, 9, 1),
    )


@pytest.mark.parametrize(
    "build", [four_convolutions, lambda: nn.Conv2d(6, 9, (5, 3), 2, (1, 2))], ids=["cp", "dense"]
)
def test_it_computes_the_same(build):
    torch.manual_seed(0)
    module, x = build(), torch.randn(2, 6, 13, 11)
    with OnnxRuntime() as process, torch.inference_mode():
        contender = process.contender(module, x)
        check(contender, module(x), torch.tensor(1e-5))
        assert 0 < contender.burst(3) < 10


def test_the_graph_is_a_chain_of_convolutions():
    graph = model_of(four_convolutions(), torch.zeros(1, 6, 13, 11)).graph
    assert [node.op_type for node in graph.node] == ["Conv"] * 4
    assert [node.output[0] for node in graph.node] == ["map1", "map2", "map3", "y"]
    assert len(graph.initializer) == 5


def test_it_computes_an_int8_layer_up_to_its_rounding():
    torch.manual_seed(0)
    conv, x = nn.Conv2d(6, 9, (5, 3), 2, (1, 2)), torch.randint(256, (2, 6, 13, 11), dtype=torch.uint8)
    layer = Int8Conv2d.from_conv(conv, 0.01, 100, out_scale=0.02, out_zero_point=120)
    with OnnxRuntime() as process, torch.inference_mode():
        contender = process.quantized_contender(layer, x)
        check(contender, layer(x).float(), torch.ones(()))


def test_a_request_that_fails_is_an_error_here():
    with OnnxRuntime() as process, pytest.raises(RuntimeError, match="onnx_runtime_server ended"):
        process.ask(model="/nowhere", calls=1)
