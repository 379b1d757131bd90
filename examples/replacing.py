"""Replacing the convolutions of a trained network by CP layers."""

import copy
from collections.abc import Mapping

import torch
from torch import nn

from cnnkern import CPConv2d


def replaced(network: nn.Module, modules: Mapping[str, nn.Module]) -> nn.Module:
    """A copy of ``network`` with copies of ``modules`` in the places they name ("fire2.expand3x3")."""
    network = copy.deepcopy(network)
    for name, module in modules.items():
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, copy.deepcopy(module))
    return network


def stock_form(network: nn.Module) -> nn.Module:
    """A copy of ``network`` with every CP layer as its four stock convolutions."""
    layers = {name: module for name, module in network.named_modules() if isinstance(module, CPConv2d)}
    return replaced(network, {name: module.to_stock() for name, module in layers.items()}).eval()


@torch.no_grad()
def approximation_error(layer: CPConv2d, conv: nn.Conv2d) -> float:
    """||W' - W|| / ||W|| (Frobenius), for the weight W' that ``layer`` stands for and the W of ``conv``."""
    weight = conv.weight.double()
    return float((layer.to_conv().weight.double() - weight).norm() / weight.norm())


def parameter_count(module: nn.Module) -> int:
    """Learnable numbers in ``module``, biases included."""
    return sum(parameter.numel() for parameter in module.parameters())
