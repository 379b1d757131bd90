"""A layer is timed in the model's own run, which ends there, and leaves nothing behind."""

import torch
from torch import Tensor, nn

from cnnkern import Im2colConv2d
from cnnkern.compression.in_place import times_in_place
from cnnkern.compression.running import inference
from tests.compression.nets import chain

X = torch.randn(2, 3, 12, 12)


def test_the_model_is_afterwards_what_it_was():
    model = chain().eval()
    before = list(model.modules())
    with inference(model):
        times = times_in_place(model, X, model[2], [Im2colConv2d.from_conv(model[2]).eval()], 1e-3)
    assert len(times) == 2
    assert min(times) > 0
    assert list(model.modules()) == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_what_comes_behind_the_layer_is_not_run():
    model = chain().eval()
    model[4].register_forward_pre_hook(lambda *_: 1 / 0)
    with inference(model):
        assert min(times_in_place(model, X, model[2], [], 1e-3)) > 0


class Reads(nn.Module):
    """A model that uses more of its convolution than its call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x * self.conv.weight.norm())


def test_a_layer_with_which_the_model_fails_has_the_error():
    model = Reads().eval()
    with inference(model):
        own, failed = times_in_place(model, X, model.conv, [nn.Identity()], 1e-3)
    assert own > 0
    assert isinstance(failed, AttributeError)
