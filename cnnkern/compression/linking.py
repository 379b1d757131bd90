"""Int8 layers that hand integers on to each other, where nothing stands between them that needs real numbers.

A layer between float32 ones writes real numbers, and the next one puts them on its grid: two passes over
memory that cost as much as the layers. Where all that read its output are int8 layers with one grid, it
writes the integers of that grid itself, the ReLU done. ReLU, max pooling and concatenation may stand between:
they do with the integers what they do with the real numbers, since a grid keeps their order.

A ReLU behind an int8 layer that gives float32 is done by the layer, too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import fx, nn

from cnnkern.compression.losses import same_outputs
from cnnkern.compression.rewriting import replace
from cnnkern.folding import UntraceableError, trace
from cnnkern.nn import Int8Conv2d
from cnnkern.quantization.integer import IntegerMaxPool
from cnnkern.quantization.operations import Kind, ceiling_of, data_inputs, kind_of

Grid = tuple[float, int]  # scale, zero point


def is_seen(model: nn.Module, example: Any) -> bool:
    """Whether the graph that `link` would look at is what the model does on the example.

    It is not where, say, a step is taken if an argument is None: for `torch.fx` it is not.
    """
    try:
        return same_outputs(model, trace(model), example)
    except Exception:  # of tracing, and of a graph that cannot be run
        return False


def link(model: nn.Module, writers: Collection[Int8Conv2d] | None = None) -> nn.Module:
    """The model, changed in place: integers go from one int8 convolution to the next, where they can, and
    where the first one is of `writers`, if they are given."""
    graph = _graph(model)
    if graph is None:
        return model
    for layer, (scale, zero_point), rectified in graph.links():
        if layer.out_scale is None and (writers is None or layer in writers):
            device = layer.weight.device
            layer.out_scale = torch.tensor(scale, dtype=torch.float64, device=device)
            layer.out_zero_point = torch.tensor(zero_point, device=device)
            layer.activation = "relu" if rectified else layer.activation
    pools = {pool: _pool(IntegerMaxPool, pool) for pool in graph.pools() if type(pool) is nn.MaxPool2d}
    return rectify(replace(model, pools))


def rectify(model: nn.Module) -> nn.Module:
    """The model, changed in place: its int8 layers do the ReLUs behind them."""
    graph = _graph(model)
    if graph is None:
        return model
    for layer in graph.rectifiable():
        layer.activation = "relu"
    return replace(model, {relu: nn.Identity().train(relu.training) for relu in graph.idle_relus()})


def rectifiable(model: nn.Module) -> dict[Int8Conv2d, set[nn.ReLU]]:
    """Those of which `rectify` changes something, and the ReLUs that read them."""
    graph = _graph(model)
    return {} if graph is None else graph.rectifiable()


def links(model: nn.Module) -> list[tuple[set[Int8Conv2d], set[Int8Conv2d]]]:
    """What `link` would link: layers that hand integers on, and those that they hand them to.

    Each pair works as a whole or not at all: with one of its layers not in int8, none of them would.
    """
    graph = _graph(model)
    return [] if graph is None else list(graph.groups())


def unlink(model: nn.Module) -> bool:
    """Undo `link` in place, but for the ReLUs; whether there was anything to undo."""
    graph, found = _graph(model), False
    if graph is None:
        return False
    for layer, grid, _ in graph.links():
        if layer.numbers()[2:] == grid:
            layer.out_scale, found = None, True
            layer.out_zero_point = torch.zeros_like(layer.x_zero_point)
    pools = {pool: _pool(nn.MaxPool2d, pool) for pool in graph.pools() if type(pool) is IntegerMaxPool}
    replace(model, pools)
    return found


@dataclass(frozen=True)
class _Graph:
    """What happens between the int8 layers of a model."""

    nodes: list[fx.Node]
    modules: dict[str, nn.Module]

    def links(self) -> Iterator[tuple[Int8Conv2d, Grid, bool]]:
        """Layers whose output only int8 layers with one grid read; the grid, and whether after a ReLU."""
        for node in self.nodes:
            if node in self.carried and self._writes_integers(node):
                yield self._module(node), *self.wanted[node]

    def groups(self) -> Iterator[tuple[set[Int8Conv2d], set[Int8Conv2d]]]:
        """Those that write and those that read the values which are integers together or not at all."""
        left = dict.fromkeys(node for node in self.nodes if node in self.carried)
        while left:
            reached, values = [next(iter(left))], set()
            while reached:
                value = reached.pop()
                if value not in values:
                    values.add(value)
                    around = [*value.users, *value.all_input_nodes]
                    reached += [each for each in around if each in left and self._passes_between(each, value)]
            writers = {self._module(value) for value in values if self._writes_integers(value)}
            readers = {self._module(user) for value in values for user in value.users if self._is_int8(user)}
            yield writers, readers
            left = {value: None for value in left if value not in values}

    def pools(self) -> set[nn.Module]:
        """The max poolings that integers go through."""
        return {self._module(node) for node in self.nodes if node in self.carried and self._pools(node)}

    def rectifiable(self) -> dict[Int8Conv2d, set[nn.ReLU]]:
        """Layers whose output only ReLUs read, which are modules, perhaps behind identities; those ReLUs."""
        found = {}
        for node in self.nodes:
            if self._is_int8(node) and self._called_once(node):
                readers = list(self._readers(node))
                if readers and all(type(reader) is nn.ReLU for reader in readers):
                    found[self._module(node)] = set(readers)
        return found

    def idle_relus(self) -> set[nn.ReLU]:
        """The ReLUs that change nothing, wherever they are called."""
        positive: set[fx.Node] = set()
        busy, idle = set(), set()
        for node in self.nodes:
            if self._is_int8(node):
                if self._module(node).relu:
                    positive.add(node)
                continue
            known = self._passes(node) and all(
                each in positive for each in data_inputs(node, self._kind(node))
            )
            if known or self._is_relu(node):
                positive.add(node)
            if type(self._module(node)) is nn.ReLU:
                (idle if known else busy).add(self._module(node))
        return {relu for relu in idle - busy if _is_plain(relu)}

    @cached_property
    def wanted(self) -> dict[fx.Node, tuple[Grid, bool] | None]:
        """The grid on which all readers want a value, and whether after a ReLU; None where some want none."""
        wanted: dict[fx.Node, tuple[Grid, bool] | None] = {}
        for node in reversed(self.nodes):
            wishes = {self._wish(user, wanted) for user in node.users}
            wanted[node] = wishes.pop() if len(wishes) == 1 else None
        return wanted

    @cached_property
    def carried(self) -> set[fx.Node]:
        """The values that can be integers: wanted so, and all that they are made of as well."""
        carried = {
            node
            for node in self.nodes
            if self.wanted[node] is not None and (self._writes_integers(node) or self._passes(node))
        }
        while True:
            torn = {
                node
                for node in carried
                if (self._passes(node) and not carried.issuperset(data_inputs(node, self._kind(node))))
                or any(self._passes(user) and user not in carried for user in node.users)
            }
            if not torn:
                return carried
            carried -= torn

    def _wish(
        self, user: fx.Node, wanted: dict[fx.Node, tuple[Grid, bool] | None]
    ) -> tuple[Grid, bool] | None:
        """What a reader wants of the value that it reads."""
        if self._is_int8(user) and self._module(user).x_dtype is torch.uint8:
            return self._module(user).numbers()[:2], False
        if not self._passes(user) or wanted[user] is None:
            return None
        grid, rectified = wanted[user]
        return grid, rectified or self._is_relu(user)

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.modules[node.target] if node.op == "call_module" else None

    def _kind(self, node: fx.Node) -> Kind:
        return kind_of(node, self.modules)

    def _is_int8(self, node: fx.Node) -> bool:
        return type(self._module(node)) is Int8Conv2d

    def _is_relu(self, node: fx.Node) -> bool:
        return self._kind(node) is Kind.RELU and ceiling_of(node, self.modules) is None

    def _pools(self, node: fx.Node) -> bool:
        return (
            self._kind(node) is Kind.MAX_POOL and node.op == "call_module" and _is_plain(self._module(node))
        )

    def _passes(self, node: fx.Node) -> bool:
        """Whether an operation does the same with integers on a grid as with the real numbers."""
        return (
            self._is_relu(node)
            or self._pools(node)
            or self._kind(node) is Kind.CONCATENATION
            or type(self._module(node)) is nn.Identity
        )

    def _passes_between(self, one: fx.Node, other: fx.Node) -> bool:
        """Whether the later of two neighbours is made of the earlier one's integers as they are."""
        later = one if other in one.all_input_nodes else other
        return self._passes(later)

    def _called_once(self, node: fx.Node) -> bool:
        return sum(self._module(other) is self._module(node) for other in self.nodes) == 1

    def _writes_integers(self, node: fx.Node) -> bool:
        """Whether a node is a layer that can write uint8, such as its readers read."""
        return self._is_int8(node) and self._module(node).x_dtype is torch.uint8 and self._called_once(node)

    def _readers(self, node: fx.Node) -> Iterator[nn.Module | None]:
        """The modules that read a value, perhaps behind identities; None for what is not a module."""
        for user in node.users:
            if type(self._module(user)) is nn.Identity:
                yield from self._readers(user)
            else:
                yield self._module(user)


def _graph(model: nn.Module) -> _Graph | None:
    """None for a model without int8 layers, or that `torch.fx` cannot trace."""
    if not any(isinstance(module, Int8Conv2d) for module in model.modules()):
        return None
    try:
        traced = trace(model)
    except UntraceableError:
        return None
    return _Graph(list(traced.graph.nodes), dict(traced.named_modules()))


def _is_plain(module: nn.Module) -> bool:
    """Whether nobody would miss the module itself."""
    return not module._forward_hooks and not module._forward_pre_hooks


def _pool(kind: type[nn.MaxPool2d], pool: nn.MaxPool2d) -> nn.MaxPool2d:
    return kind(**IntegerMaxPool.constructor_arguments(pool)).train(pool.training)
