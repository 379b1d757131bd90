"""Puts simulating modules into a copy of a model: into its graph, or in place of its layers."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import fx, nn

from cnnkern.folding import UntraceableError, trace

from .affine import limits
from .conversion import form_of, has_int8_form
from .observers import Observer
from .operations import Kind, average_of, kind_of, max_pool_of, why_not_int8
from .plan import Plan, Step, kept_layers, layer_names, make_plan
from .prepared import Prepared
from .quantizer import Quantizer
from .simulated_cp import SimulatedCP
from .simulation import (
    Simulated,
    SimulatedAdd,
    SimulatedAveragePool,
    SimulatedDequantize,
    SimulatedLayer,
    SimulatedMaxPool,
    SimulatedQuantize,
    SimulatedRelu,
)

MakeQuantizer = Callable[..., Quantizer]


def build(
    model: nn.Module,
    *,
    observer: Callable[[], Observer],
    first: bool,
    last: bool,
    keep: Collection[str],
    dtype: torch.dtype,
) -> Prepared:
    """The prepared model in eval mode, its observers empty; `prepare` says what the arguments are."""
    limits(dtype)  # refuses other types
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    # a layer alone would be traced into
    model = copy.deepcopy(nn.Sequential(model) if has_int8_form(model) else model).eval()

    device = next((parameter.device for parameter in model.parameters()), None)

    def make_quantizer(**options: float) -> Quantizer:
        return Quantizer(observer(), dtype, **options).to(device).eval()

    try:
        traced = trace(model)
        kept = kept_layers(layer_names(traced), first, last, keep)
        plan = make_plan(traced, kept)
    except UntraceableError as error:
        names = [name for name, module in model.named_modules() if has_int8_form(module)]
        return _replace_layers(model, str(error), kept_layers(names, first, last, keep), make_quantizer)
    return _GraphBuilder(traced, plan, make_quantizer).build()


def _replace_layers(
    model: nn.Module, reason: str, kept: dict[str, str], make_quantizer: MakeQuantizer
) -> Prepared:
    """Each layer with a grid for its input, and float32 between them."""
    quantizers, floats, memo = {}, {}, {}
    for name, layer in model.named_modules():
        if not has_int8_form(layer):
            continue
        if why := kept.get(name) or why_not_int8(layer):
            floats[name] = why
            continue
        quantizers[name.replace(".", "_")] = quantizer = make_quantizer()
        simulated = _simulated_layer(layer, None, quantizer, None).eval()
        parts = OrderedDict(quantize=SimulatedQuantize(quantizer).eval(), layer=simulated)
        memo[id(layer)] = nn.Sequential(parts).eval()
    # wherever a module holds one of these layers, deepcopy takes what was "copied" already
    return Prepared(copy.deepcopy(model, memo), quantizers, floats, reason).eval()


def _simulated_layer(layer: nn.Module, *args: Any, **options: Any) -> SimulatedLayer:
    kind = SimulatedLayer if form_of(layer).inner is None else SimulatedCP
    return kind(layer, *args, **options)


class _GraphBuilder:
    """Carries out a plan on the graph that it was made for."""

    def __init__(self, traced: fx.GraphModule, plan: Plan, make_quantizer: MakeQuantizer) -> None:
        self.traced, self.graph, self.plan = traced, traced.graph, plan
        self.make_quantizer = make_quantizer
        self.modules = dict(traced.named_modules())
        self.quantizers: dict[str, Quantizer] = {}
        self.now: dict[fx.Node, fx.Node] = {}  # what stands for a node of the plan
        self.entries: dict[fx.Node, fx.Node] = {}  # where float32 values become integers
        self.names: set[str] = set()

    def build(self) -> Prepared:
        order = {node: place for place, node in enumerate(self.graph.nodes)}
        exits = {node: self._float_users(node) for node in self.plan.integers}
        for step in sorted(self.plan.steps.values(), key=lambda step: order[step.node]):
            module = self._simulated(step)
            if module is not None:
                self._replace(step, module)
        for node, users in exits.items():
            if users:
                self._leave(self.now.get(node, node), self._quantizer(node), users)
        self.traced.delete_all_unused_submodules()
        self.graph.lint()
        self.traced.recompile()
        return Prepared(self.traced, self.quantizers, self.plan.floats).eval()

    def _float_users(self, node: fx.Node) -> list[fx.Node]:
        """The users of a node with integers that want float32."""
        takers = {
            step.node
            for result, step in self.plan.steps.items()
            if node in step.inputs and (step.kind is Kind.LAYER or result in self.plan.integers)
        }
        return [
            user
            for user in node.users
            if user not in takers and kind_of(user, self.modules) is not Kind.QUERY
        ]

    def _quantizer(self, node: fx.Node) -> Quantizer:
        """The grid of a node, as the plan shares them."""
        grid = self.plan.grid_of(node)
        if grid.name not in self.quantizers:
            ceilings = [
                step.ceiling
                for result, step in self.plan.steps.items()
                if step.ceiling is not None
                and step.kind is Kind.LAYER
                and result in self.plan.integers
                and self.plan.grid_of(result) is grid
            ]
            options = {"ceiling": max(ceilings)} if ceilings else {}
            self.quantizers[grid.name] = self.make_quantizer(**options)
        return self.quantizers[grid.name]

    def _simulated(self, step: Step) -> Simulated | None:
        """The module for a step; None where the operation does to integers what it does to floats."""
        inputs = [self._quantizer(node) for node in step.inputs]
        output = self._quantizer(step.result) if step.result in self.plan.integers else None
        relu = step.relu is not None
        if step.kind is Kind.LAYER:
            norm = None if step.norm is None else self.modules[step.norm.target]
            layer = self.modules[step.node.target]
            return _simulated_layer(layer, norm, inputs[0], output, relu=relu, ceiling=step.ceiling)
        if step.kind is Kind.ADD:
            return SimulatedAdd(*inputs, output, relu)
        if step.kind is Kind.AVERAGE:
            return SimulatedAveragePool(average_of(step.node, self.modules), *inputs, output, relu)
        if step.kind is Kind.RELU:
            return SimulatedRelu(output, step.ceiling)
        if step.kind is Kind.MAX_POOL:
            return SimulatedMaxPool(max_pool_of(step.node, self.modules))
        return None

    def _replace(self, step: Step, module: Simulated) -> None:
        inputs = [self._entry(node, step.node) if step.kind is Kind.LAYER else node for node in step.inputs]
        name = step.node.target if step.kind is Kind.LAYER else f"joints.{step.node.name}"
        if name in self.names:
            name = f"{name}_{step.node.name}"  # a layer that is called again
        self.names.add(name)
        self.traced.add_submodule(name, module.eval())
        with self.graph.inserting_after(step.result):
            new = self.graph.call_module(name, tuple(self.now.get(node, node) for node in inputs))
        step.result.replace_all_uses_with(new)
        self.now[step.result] = new
        for node in (step.relu, step.norm, step.node):
            if node is not None and not node.users:
                self.graph.erase_node(node)
        if step.norm is not None:  # which is called once, and lives on in the step's module
            self.traced.delete_submodule(step.norm.target)

    def _entry(self, node: fx.Node, user: fx.Node) -> fx.Node:
        """The node that gives the integers of `node` to a layer."""
        if node in self.plan.integers:
            return node
        if node not in self.entries:
            name = f"joints.{node.name}_quantize"
            self.traced.add_submodule(name, SimulatedQuantize(self._quantizer(node)).eval())
            with self.graph.inserting_before(user):
                self.entries[node] = self.graph.call_module(name, (self.now.get(node, node),))
        return self.entries[node]

    def _leave(self, node: fx.Node, quantizer: Quantizer, users: list[fx.Node]) -> None:
        name = f"joints.{node.name}_dequantize"
        self.traced.add_submodule(name, SimulatedDequantize(quantizer).eval())
        with self.graph.inserting_after(node):
            new = self.graph.call_module(name, (node,))
        for user in users:
            user.replace_input_with(node, new)
