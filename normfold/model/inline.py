"""Calls of model-local functions replaced by what the functions compute: weights that a call passes are constants then.

The result is a model of its own over the same bytes. It is read-only like every other, and what is not in an inlined call
still is a range of the file, so that it is written as it was. Keys of nodes do not depend on what else was inlined: a node
keeps the one that it has in the file, and a copy of node 2 of the body of `Block`, called by node 5 of the graph, is
`graph:5/Block:2`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from normfold.model.body import Body
from normfold.model.functions import Function, Functions, obstacle
from normfold.model.graph import Node, Scope, Value
from normfold.model.load import Model, build_scopes, connect_scopes, mark_calls
from normfold.model.outline import NodeOutline, Origin, ScopeOutline, SubgraphOutline
from normfold.model.wire import Field

# Calls inside of calls inside of … exporters write one level for each module around a layer.
_DEPTH = 32
# What the model may grow by, whoever calls whom how often.
_MOST_NODES, _MOST_BYTES = 100_000, 1 << 28


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """A call that was inlined, or one that could not be.

    Args:
        key: of the call node.
        label, op_type: of the call node.
        function: what it calls.
        scope: path of the scope that it stands in.
        inputs, outputs: names of the values that it reads and makes, as the inlined model has them.
        outer: the inlined call that brought it there, None if it stood in the graph.
        obstacle: why it was not inlined, as key and message; None if it was.
    """

    key: str
    label: str
    op_type: str
    function: Function
    scope: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    outer: str | None
    obstacle: tuple[str, str] | None


@dataclass(frozen=True, slots=True, eq=False)
class Inlined:
    """The model with calls inlined.

    Args:
        model: like the original, but for these calls, and for the functions that nobody calls any more.
        calls: those that were inlined, by key.
        refused: those that could not be, by key.
    """

    model: Model
    calls: dict[str, Call]
    refused: dict[str, Call]


def inline(model: Model, wanted: Collection[str] | None = None) -> Inlined:
    """Put the bodies of functions in the place of calls in the main graph and its subgraphs.

    Args:
        model: not changed.
        wanted: keys of the calls to inline, with those that they are inside of; None for all.
    """
    functions = Functions(model.functions, model.trust.caps)
    return _Inliner(model, functions, wanted).run()


@dataclass(slots=True)
class _Inliner:
    model: Model
    functions: Functions
    wanted: Collection[str] | None
    calls: dict[str, Call] = field(default_factory=dict)
    refused: dict[str, Call] = field(default_factory=dict)
    _size: tuple[int, int] | None = None
    _taken: set[str] | None = None
    _counts: dict[str, int] = field(default_factory=dict)

    def run(self) -> Inlined:
        graph = self.model.graph
        while (outline := self._rebuilt(graph)) is not graph.outline:  # ends, because nothing calls itself
            graph = Scope("graph", outline, self.model.opset)
            build_scopes(graph)
        if graph is self.model.graph:
            return Inlined(self.model, self.calls, self.refused)
        connect_scopes(graph, [])
        keep_policy(self.model, graph)
        return Inlined(self._with_graph(graph), self.calls, self.refused)

    def _with_graph(self, graph: Scope) -> Model:
        """The model around a new graph; functions that lost their last caller are left out, and what nobody reads is noted."""
        used = self.functions.reachable([self.model.graph])
        others = [scope for _, scope in self.model.functions if id(scope) not in used]  # and what those call
        lost = used - self.functions.reachable([graph, *others])
        gone = {item.tag for item, scope in self.model.functions if id(scope) in lost}
        model = dataclasses.replace(
            self.model,
            graph=graph,
            functions=[(item, scope) for item, scope in self.model.functions if item.tag not in gone],
            order=[item for item in self.model.order if item.tag not in gone],
            inlined=(*self.model.inlined, *self.calls),
            unread=(*renewed(self.model.unread, [graph]), *unread(self.model.graph, graph)),
        )
        mark_calls(model)
        return model

    # --- one level of calls ---

    def _rebuilt(self, graph: Scope) -> ScopeOutline:
        """The outline of the graph with the calls of this level replaced; the same object if there are none."""
        outlines: dict[int, ScopeOutline] = {}  # by identity of the scope
        for scope in reversed(list(graph.walk())):
            replaced: dict[int, list[NodeOutline]] = {}
            for node in scope.nodes:
                found = self._replacement(node, outlines)
                if found is not None:
                    replaced[node.index] = found
            if replaced:
                outlines[id(scope)] = _with_nodes(scope, replaced)
        return outlines.get(id(graph), graph.outline)

    def _replacement(self, node: Node, outlines: dict[int, ScopeOutline]) -> list[NodeOutline] | None:
        function = self.functions.of(node)
        if function is not None and node.key not in self.refused and (self.wanted is None or node.key in self.wanted):
            call = self._call(node, function)
            if call.obstacle is None:
                self.calls[node.key] = call
                return Body(node, function, self.model.files, self.fresh).outlines()
            self.refused[node.key] = call
        if any(id(inner) in outlines for inner in node.subgraphs):
            subgraphs = [
                SubgraphOutline(sub.attribute, sub.position, outlines.get(id(inner), sub.outline))
                for sub, inner in zip(node.outline.subgraphs, node.subgraphs, strict=True)
            ]
            return [dataclasses.replace(node.outline, subgraphs=subgraphs, origin=origin_of(node))]
        return None

    def _call(self, node: Node, function: Function) -> Call:
        problem = obstacle(self.functions, node, function, self.model.opset) or self._too_much(node, function)
        inputs, outputs = (tuple(names) for names in (node.proto.input, node.proto.output))
        return Call(node.key, node.label, node.op_type, function, node.scope.path, inputs, outputs, node.call, problem)

    def _too_much(self, node: Node, function: Function) -> tuple[str, str] | None:
        """Whether the model would grow too much; a call inside of an inlined one was judged with that.

        All calls are judged together, wanted or not: else a second run would have room for what the first one left.
        """
        if node.call is not None:
            return None
        if function.levels > _DEPTH:
            return "inline-size", f"calls are nested more than {_DEPTH} deep in it"
        nodes, size = self._growth()
        if nodes > _MOST_NODES or size > _MOST_BYTES:
            return "inline-size", f"all calls together stand for {nodes} nodes and {size >> 20} MiB"
        return None

    def _growth(self) -> tuple[int, int]:
        """Nodes and bytes that all calls of the model stand for."""
        if self._size is None:
            called = [function for scope in self.model.graph.walk() for _, function in self.functions.calls(scope)]
            self._size = sum(function.nodes for function in called), sum(function.bytes for function in called)
        return self._size

    def fresh(self, hint: str) -> str:
        """A name for a value or node that nothing in the model has."""
        if self._taken is None:
            self._taken = {name for scope in self.model.scopes() for name in scope.values}
            self._taken |= {node.proto.name for scope in self.model.scopes() for node in scope.nodes}
        name, count = hint, self._counts.get(hint, 0)
        while name in self._taken:
            count += 1
            name = f"{hint}_{count}"
        self._counts[hint] = count  # else many calls with one name would count up again and again
        self._taken.add(name)
        return name


def _with_nodes(scope: Scope, replaced: dict[int, list[NodeOutline]]) -> ScopeOutline:
    """The outline of a scope with other nodes in the place of some; the others keep their keys."""
    outline = scope.outline
    own = {node.index: node for node in scope.nodes}
    order: list[Field] = []
    nodes: list[NodeOutline] = []
    count = 0
    for item in outline.order:
        if item.number != outline.kind.node:
            order.append(item)
            continue
        node = own[count]
        new = replaced.get(count)
        if new is None:
            new = [dataclasses.replace(node.outline, origin=origin_of(node))]
        order += [part.field for part in new]
        nodes += new
        count += 1
    return dataclasses.replace(outline, order=order, nodes=nodes, rebuilt=True)


def origin_of(node: Node) -> Origin:
    """Where a node comes from: itself, where it has not been moved yet."""
    return node.outline.origin or Origin(node.key, node.key, None)


def keep_policy(original: Model, graph: Scope) -> None:
    """What a caller may override stays so."""
    for value in original.graph.inputs:
        now = graph.values.get(value.name)  # one that was an initializer as well may have gone with its readers
        if now is not None:
            now.exposed = value.exposed


def renewed(values: Iterable[Value], roots: Iterable[Scope]) -> Iterator[Value]:
    """The same values where graphs and functions were built anew; those of others stay."""
    scopes = {scope.path: scope for root in roots for scope in root.walk()}
    for value in values:
        scope = scopes.get(value.scope.path)
        now = value if scope is None else scope.values.get(value.name)
        if now is not None:
            yield now


def unread(before: Scope, after: Scope) -> Iterator[Value]:
    """Values that had readers and have none any more: calls that pass them to nobody, nodes that went."""
    scopes = {scope.path: scope for scope in after.walk()}
    for scope in before.walk():
        for name, value in scope.values.items():
            now = scopes[scope.path].values.get(name)
            if value.uses and now is not None and not now.uses and not now.is_output:
                yield now
