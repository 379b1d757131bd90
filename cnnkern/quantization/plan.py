"""Which operations of a traced model are computed with integers, which tensors share a grid, and why the rest
stays in float32.

A layer always can be. What joins layers (sums, averages, pooling, concatenation, reshaping) is, where all its
inputs are integers and a layer behind it wants integers: elsewhere float32 is more exact and costs nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from torch import fx, nn

from cnnkern.folding import UntraceableError, foldable

from .operations import Kind, ceiling_of, data_inputs, is_in_place, kind_of, why_not_int8

JOINTS = {Kind.RELU, Kind.ADD, Kind.AVERAGE, Kind.MAX_POOL, Kind.CONCATENATION, Kind.RESHAPE}
# These have the grid of their inputs; the others one of their own.
SAME_GRID = {Kind.RELU, Kind.MAX_POOL, Kind.CONCATENATION, Kind.RESHAPE}


@dataclass
class Step:
    """One operation, with the batch norm and the ReLU after it that it does as well.

    `result` is the last of these nodes. `ceiling` is the 6 of a ReLU6.
    """

    kind: Kind
    node: fx.Node
    inputs: list[fx.Node]
    result: fx.Node
    norm: fx.Node | None = None
    relu: fx.Node | None = None
    ceiling: float | None = None


@dataclass
class Plan:
    """The steps that are computed with integers, by their result, in the order of the graph.

    Attributes:
        steps: {result: step}; layers among them also where their output is float32.
        integers: the nodes whose tensors are integers.
        grids: {node: the node that stands for all those on the same grid}.
        floats: {name: why it is computed in float32}.
    """

    steps: dict[fx.Node, Step] = field(default_factory=dict)
    integers: set[fx.Node] = field(default_factory=set)
    grids: dict[fx.Node, fx.Node] = field(default_factory=dict)
    floats: dict[str, str] = field(default_factory=dict)

    def grid_of(self, node: fx.Node) -> fx.Node:
        """The node that stands for all those on the grid of `node`."""
        while (other := self.grids.get(node, node)) is not node:
            node = other
        return node


def make_plan(traced: fx.GraphModule, kept: dict[str, str]) -> Plan:
    """The plan for a traced model; `kept` are layers that stay in float32, and why.

    Raises UntraceableError if a tensor is overwritten that is used again: the graph does not show that.
    """
    modules = dict(traced.named_modules())
    _refuse_aliasing(traced, modules)
    plan = Plan()
    steps = _steps(traced, modules, kept, plan.floats)
    able = _able(steps)
    wanted = _wanted(steps, able)
    for result, step in steps.items():
        if step.kind is Kind.LAYER:
            if result not in wanted and step.ceiling is not None:
                step.result, step.relu, step.ceiling = step.relu.args[0], None, None
            plan.steps[step.result] = step
            if result in wanted:
                plan.integers.add(result)
        elif result in able and result in wanted:
            plan.steps[result] = step
            plan.integers.add(result)
            if step.kind in SAME_GRID:
                for each in step.inputs:
                    plan.grids[plan.grid_of(each)] = plan.grid_of(result)
    _separate_ceilings(plan)
    plan.floats.update(_reasons(traced, modules, plan, steps, able))
    return plan


def _steps(
    traced: fx.GraphModule, modules: dict[str, nn.Module], kept: dict[str, str], floats: dict[str, str]
) -> dict[fx.Node, Step]:
    """All operations that have an integer form, by their result, in the order of the graph."""
    norms = foldable(traced)
    steps: dict[fx.Node, Step] = {}
    absorbed: set[fx.Node] = set()
    for node in traced.graph.nodes:
        kind = kind_of(node, modules)
        if node in absorbed or kind in (Kind.OTHER, Kind.QUERY):
            continue
        if kind is Kind.LAYER and (reason := kept.get(node.target) or why_not_int8(modules[node.target])):
            floats[node.target] = reason
            continue
        step = Step(kind, node, data_inputs(node, kind), node)
        if kind is Kind.LAYER and node.target in norms:
            step.norm = step.result = next(iter(node.users))
        if kind in (Kind.LAYER, Kind.ADD, Kind.AVERAGE) and len(step.result.users) == 1:
            (user,) = step.result.users
            ceiling = ceiling_of(user, modules)
            # a ceiling is kept by the grid of the output, which is the layer's own
            if kind_of(user, modules) is Kind.RELU and (ceiling is None or kind is Kind.LAYER):
                step.relu = step.result = user
                step.ceiling = ceiling
        absorbed.update(each for each in (step.norm, step.relu) if each is not None)
        steps[step.result] = step
    return steps


def _able(steps: dict[fx.Node, Step]) -> set[fx.Node]:
    """The results that can be integers."""
    able: set[fx.Node] = set()
    for result, step in steps.items():
        if step.kind is Kind.LAYER or all(each in able for each in step.inputs):
            able.add(result)
    return able


def _wanted(steps: dict[fx.Node, Step], able: set[fx.Node]) -> set[fx.Node]:
    """The nodes that a layer wants as integers, be it through others that can pass them on."""
    wanted: set[fx.Node] = set()
    for result, step in reversed(steps.items()):
        if step.kind is Kind.LAYER or (result in able and result in wanted):
            wanted.update(step.inputs)
    return wanted


def _separate_ceilings(plan: Plan) -> None:
    """A ReLU6 that a layer would leave to the end of its grid becomes a step, where others share the grid."""
    for result, step in list(plan.steps.items()):
        grid = plan.grid_of(result)
        shared = any(
            other.ceiling is None and each in plan.integers and plan.grid_of(each) is grid
            for each, other in plan.steps.items()
            if other.kind not in SAME_GRID
        )
        if step.ceiling is not None and shared:
            layer = step.relu.args[0]
            plan.steps[result] = Step(Kind.RELU, step.relu, [layer], result, ceiling=step.ceiling)
            plan.steps[layer] = step
            step.result, step.relu, step.ceiling = layer, None, None
            plan.integers.add(layer)
            plan.grids[layer] = grid


def _reasons(
    traced: fx.GraphModule,
    modules: dict[str, nn.Module],
    plan: Plan,
    steps: dict[fx.Node, Step],
    able: set[fx.Node],
) -> dict[str, str]:
    """Why each operation that is left in float32 is, but for the layers."""
    done = {node for step in plan.steps.values() for node in (step.node, step.norm, step.relu)}
    owners = {node: step for step in steps.values() for node in (step.node, step.relu)} | steps
    reasons = {}
    for node in traced.graph.nodes:
        kind = kind_of(node, modules)
        if node in done or not node.op.startswith("call") or kind in (Kind.LAYER, Kind.QUERY):
            continue
        step = owners.get(node)
        if step is None:
            reason = "no integer form of this operation"
        elif not all(each in able for each in step.inputs) and step.kind is not Kind.LAYER:
            floats = [each for each in step.inputs if each not in able]
            reason = f"its input is float32: {', '.join(map(_name, floats))}"
        else:
            reason = "no int8 layer follows"
        reasons[_name(node)] = reason
    return reasons


def _name(node: fx.Node) -> str:
    return node.target if node.op == "call_module" else node.name


def _refuse_aliasing(traced: fx.GraphModule, modules: dict[str, nn.Module]) -> None:
    order = {node: place for place, node in enumerate(traced.graph.nodes)}
    for node in traced.graph.nodes:
        if not (is_in_place(node, modules) and node.args and isinstance(node.args[0], fx.Node)):
            continue
        target = node.args[0]
        while True:
            later = [user for user in target.users if order[user] > order[node]]
            if later:
                raise UntraceableError(f"{_name(node)} overwrites a tensor that {_name(later[0])} uses again")
            if kind_of(target, modules) is not Kind.RESHAPE:
                break
            target = target.args[0]  # perhaps a view of it


def layer_names(traced: fx.GraphModule) -> list[str]:
    """The names of the convolutions and linear layers, in the order of their first calls."""
    modules = dict(traced.named_modules())
    calls = [node.target for node in traced.graph.nodes if kind_of(node, modules) is Kind.LAYER]
    return list(dict.fromkeys(calls))


def kept_layers(names: list[str], first: bool, last: bool, keep: Collection[str]) -> dict[str, str]:
    """{layer that stays in float32: why}.

    Raises ValueError for a name in `keep` that no layer has.
    """
    unknown = sorted(set(keep) - set(names))
    if unknown:
        raise ValueError(f"keep: expected names of convolutions or linear layers, got {', '.join(unknown)}")
    kept = dict.fromkeys(keep, "kept in float32, as asked for")
    if not first and names:
        kept.setdefault(names[0], "the first layer is kept in float32, as asked for")
    if not last and names:
        kept.setdefault(names[-1], "the last layer is kept in float32, as asked for")
    return kept
