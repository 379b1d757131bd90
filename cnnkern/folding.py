"""Folding of batch norm into the convolution or linear layer before it: one layer that computes the same.

In eval mode a batch norm is y = γ (x − μ) / √(σ² + ε) + β, a factor and a term per channel, and both can be
part of the weight and the bias (Jacob et al. 2018, section 3.2). It is computed in float64, so that the
folded weight is the nearest one of its dtype.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

Model = TypeVar("Model", bound=nn.Module)

# By the type of the layer, to which the front of the package adds our own: its batch norm, and the name of
# the weight or factor (K, ...) whose rows are those of the output, where that is not "weight".
NORMS: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: nn.BatchNorm2d, nn.Linear: nn.BatchNorm1d}
OUTPUT_WEIGHTS: dict[type[nn.Module], str] = {}


def fold(weight: Tensor, bias: Tensor | None, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight (K, ...) and bias (K) that give what `norm` in eval mode makes of the outputs of the given ones.

    Differentiable; the results have the dtype of `weight`.
    """
    factor = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.weight is not None:
        factor = factor * norm.weight.double()
    shift = (0.0 if bias is None else bias.double()) - norm.running_mean.double()
    folded_bias = shift * factor
    if norm.bias is not None:
        folded_bias = folded_bias + norm.bias.double()
    folded = weight.double() * factor.view(-1, *[1] * (weight.dim() - 1))
    return folded.to(weight.dtype), folded_bias.to(weight.dtype)


def fold_batch_norm(model: Model) -> Model:
    """A copy of `model` in eval mode, with its batch norms folded where that is exact.

    A folded one becomes a `torch.nn.Identity` in its place, so that names and structure stay. It is folded
    where it follows a `torch.nn.Conv2d` or `torch.nn.Linear` whose output nothing else uses, both are called
    once, and neither has hooks or tensors that are used besides; `torch.fx` finds that out.

    Raises UntraceableError, a ValueError, for a model that `torch.fx` cannot trace.
    """
    model = copy.deepcopy(model).eval()
    memo: dict[int, Any] = {}
    for layer_name, norm_name in foldable(trace(model)).items():
        layer, norm = model.get_submodule(layer_name), model.get_submodule(norm_name)
        weight_name = OUTPUT_WEIGHTS.get(type(layer), "weight")
        old = getattr(layer, weight_name)
        weight, bias = fold(old.detach(), layer.bias, norm)
        setattr(layer, weight_name, nn.Parameter(weight, requires_grad=old.requires_grad))
        layer.bias = nn.Parameter(bias.detach(), requires_grad=old.requires_grad)
        memo[id(norm)] = nn.Identity().eval()
    # by a copy, which finds a norm wherever it is kept, in a plain list too
    memo |= {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, memo)


class UntraceableError(ValueError):
    """A model that `torch.fx` cannot turn into a graph, or whose graph does not say all that happens."""


class Tracer(fx.Tracer):
    """Traces into the modules of the model's author, and not into those of torch and of this package."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m.__module__.startswith("cnnkern.") or super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module) -> fx.GraphModule:
    """The model as a graph that shares its modules.

    Raises UntraceableError, with the reason.
    """
    before = [(module, dict(module.__dict__)) for module in model.modules()]
    try:
        return fx.GraphModule(model, Tracer().trace(model))
    except Exception as error:  # whatever the model's own code raises when it is called with proxies
        raise UntraceableError(f"torch.fx cannot trace {type(model).__name__}: {error}") from error
    finally:
        for module, attributes in before:  # a model that keeps something from a call has kept a proxy
            module.__dict__.clear()
            module.__dict__.update(attributes)


def foldable(traced: fx.GraphModule) -> dict[str, str]:
    """{name of a layer: name of the batch norm after it that can be folded into it}."""
    modules = dict(traced.named_modules())
    calls: dict[nn.Module, list[fx.Node]] = {}
    read: set[nn.Module | None] = set()  # those of which a tensor is used by itself
    for node in traced.graph.nodes:
        if node.op == "call_module":
            calls.setdefault(modules[node.target], []).append(node)
        elif node.op == "get_attr":
            read.add(modules.get(node.target.rpartition(".")[0]))

    def called_once(node: fx.Node) -> bool:
        module = modules.get(node.target) if node.op == "call_module" else None
        return module is not None and len(calls[module]) == 1 and module not in read and not _hooked(module)

    pairs = {}
    for node in traced.graph.nodes:
        if called_once(node) and type(modules[node.target]) in NORMS and len(node.users) == 1:
            (user,) = node.users
            if called_once(user) and _follows(modules[node.target], modules[user.target]):
                pairs[node.target] = user.target
    return pairs


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _follows(layer: nn.Module, norm: nn.Module) -> bool:
    return (
        type(norm) in (NORMS[type(layer)], nn.SyncBatchNorm)
        and norm.running_var is not None
        and not torch.nn.utils.parametrize.is_parametrized(layer)
    )
