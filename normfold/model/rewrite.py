"""A model with other nodes in the place of some, as a model of its own over the same bytes.

Like an inlined model it is read-only, and what was not replaced still is a range of the file. A node that stays keeps the
key that it has in the file; node 0 of what stands for node 17 of the graph is `graph:17~0`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

from onnx import AttributeProto, NodeProto, TensorProto, ValueInfoProto

from normfold.model.body import node_outline
from normfold.model.graph import Node, Scope, Value
from normfold.model.inline import keep_policy, origin_of, renewed, unread
from normfold.model.load import FIRST_OVERRIDABLE_IR, Model, build_scopes, connect_scopes
from normfold.model.outline import NodeOutline, Origin, ScopeOutline, SubgraphOutline, file_tensor, parse
from normfold.model.wire import Field

Outlines = Mapping[int, ScopeOutline]  # new ones, by identity of the scope that they are for
Remake = Callable[[Scope, Outlines], ScopeOutline | None]


@dataclass(slots=True)
class Rewrite:
    """What changes in one scope.

    Args:
        nodes: by index of a node, those that stand in its place; none where it only goes.
        front, behind: by index of a node, those that stand before and after it, whether it stays or not.
        constants: initializers to add.
        forgotten: names of values that are gone, or have another shape: nothing may be declared about them any more.
    """

    nodes: dict[int, list[NodeProto]] = field(default_factory=dict)
    front: dict[int, list[NodeProto]] = field(default_factory=dict)
    behind: dict[int, list[NodeProto]] = field(default_factory=dict)
    constants: list[TensorProto] = field(default_factory=list)
    forgotten: set[str] = field(default_factory=set)


class Names:
    """Names that nothing in a model has."""

    def __init__(self, model: Model) -> None:
        self._taken = {name for scope in model.scopes() for name in scope.values}
        self._taken |= {node.proto.name for scope in model.scopes() for node in scope.nodes}
        self._counts: dict[str, int] = {}

    def fresh(self, hint: str) -> str:
        """A new name that is like `hint`."""
        name, count = hint, self._counts.get(hint, 0)
        while name in self._taken or not name:
            count += 1
            name = f"{hint}_{count}"
        self._counts[hint] = count
        self._taken.add(name)
        return name


def rewrite(
    model: Model, changes: Mapping[int, Rewrite], imports: Mapping[str, Mapping[str, int]] | None = None
) -> Model:
    """The model with its changes.

    Args:
        model: not changed.
        changes: by identity of the scope.
        imports: new opset imports, complete, by path of a root scope.
    """
    new = {path: dict(versions) for path, versions in (imports or {}).items()}

    def changed(scope: Scope, outlines: Outlines) -> ScopeOutline | None:
        change = changes.get(id(scope), Rewrite())
        if not (change.nodes or change.front or change.behind or holds_one_of(scope, outlines)):
            return None
        return _Builder(model, scope, change, outlines, _as_nodes(model, scope)).outline()

    return remade(model, changed, new)


def remade(model: Model, outline_of: Remake, imports: Mapping[str, dict[str, int]]) -> Model:
    """The model with new outlines for some of its scopes.

    Args:
        model: not changed.
        outline_of: the new outline of a scope, given those of the scopes inside of it; None where it stays.
        imports: new opset imports, complete, by path of a root scope.
    """
    graph = _rebuilt(model.graph, outline_of, imports)
    functions = [(item, _rebuilt(scope, outline_of, imports)) for item, scope in model.functions]
    if graph is not model.graph:
        keep_policy(model, graph)
    roots = [(model.graph, graph), *((old, now) for (_, old), (_, now) in zip(model.functions, functions, strict=True))]
    lost = [value for old, now in roots if old is not now for value in unread(old, now)]
    return dataclasses.replace(
        model,
        graph=graph,
        functions=functions,
        opset=imports.get(model.graph.path, model.opset),
        unread=(*renewed(model.unread, [graph, *(scope for _, scope in functions)]), *lost),
        imports={**model.imports, **imports},
        is_rewritten=True,
    )


def _as_nodes(model: Model, scope: Scope) -> bool:
    """Whether a new constant must be a node: the scope holds no initializers, or every one of them had to be an input."""
    return scope.is_function or model.ir_version < FIRST_OVERRIDABLE_IR


def holds_one_of(scope: Scope, outlines: Outlines) -> bool:
    """Whether a node of the scope has a body with a new outline."""
    return any(id(inner) in outlines for node in scope.nodes for inner in node.subgraphs)


def with_bodies(node: Node, outline: NodeOutline, outlines: Outlines) -> NodeOutline:
    """The outline of a node, under the key that the node has, with the new outlines of its bodies."""
    subgraphs = [
        SubgraphOutline(sub.attribute, sub.position, outlines.get(id(inner), sub.outline))
        for sub, inner in zip(node.outline.subgraphs, node.subgraphs, strict=True)
    ]
    return dataclasses.replace(outline, subgraphs=subgraphs, origin=origin_of(node))


def _rebuilt(root: Scope, outline_of: Remake, imports: Mapping[str, dict[str, int]]) -> Scope:
    """A graph or function with its new outlines; the same object if there are none."""
    outlines: dict[int, ScopeOutline] = {}
    for scope in reversed(list(root.walk())):
        outline = outline_of(scope, outlines)
        if outline is not None:
            outlines[id(scope)] = outline
    if not outlines and root.path not in imports:
        return root
    new = Scope(root.path, outlines.get(id(root), root.outline), imports.get(root.path, root.opset))
    build_scopes(new)
    _keep_calls(root, new)
    connect_scopes(new, [])
    return new


def _keep_calls(old: Scope, new: Scope) -> None:
    called = {(node.domain, node.op_type) for scope in old.walk() for node in scope.nodes if node.is_call}
    for scope in new.walk() if called else ():
        for node in scope.nodes:
            node.is_call = (node.domain, node.op_type) in called


class _Builder:
    """The outline of one scope with its changes."""

    def __init__(
        self,
        model: Model,
        scope: Scope,
        change: Rewrite,
        outlines: Mapping[int, ScopeOutline],
        as_nodes: bool,
    ) -> None:
        self.model = model
        self.scope = scope
        self.change = change
        self.outlines = outlines
        self.constants_as_nodes = as_nodes

    def outline(self) -> ScopeOutline:
        """Nodes in their places, constants in front or among the initializers."""
        outline, kind = self.scope.outline, self.scope.outline.kind
        own = {node.index: node for node in self.scope.nodes}
        order: list[Field] = []
        nodes: list[NodeOutline] = []
        count = 0
        for item in outline.order:
            if item.number != kind.node:
                if not self._is_forgotten(item):
                    order.append(item)
                continue
            new = self._of(own[count])
            if count == 0 and self.constants_as_nodes:
                new = [*self._constants(), *new]
            order += [part.field for part in new]
            nodes += new
            count += 1
        added = [] if self.constants_as_nodes else [file_tensor(t, self.model.files) for t in self.change.constants]
        return dataclasses.replace(outline, order=order, nodes=nodes, rebuilt=True, added=[*outline.added, *added])

    def _of(self, node: Node) -> list[NodeOutline]:
        """What stands where a node stood, and beside it."""
        front = [self._made(new, f"{node.key}<{i}") for i, new in enumerate(self.change.front.get(node.index, ()))]
        behind = [self._made(new, f"{node.key}>{i}") for i, new in enumerate(self.change.behind.get(node.index, ()))]
        return [*front, *self._instead(node), *behind]

    def _instead(self, node: Node) -> list[NodeOutline]:
        new = self.change.nodes.get(node.index)
        if new is not None:
            return [self._made(proto, f"{node.key}~{i}", origin_of(node).call) for i, proto in enumerate(new)]
        return [with_bodies(node, node.outline, self.outlines)]

    def _made(self, proto: NodeProto, key: str, call: str | None = None) -> NodeOutline:
        outline = node_outline(proto, self.scope, self.model.files)
        outline.origin = Origin(key, key, call)
        return outline

    def _constants(self) -> list[NodeOutline]:
        """Constants as nodes, where a scope cannot hold initializers, or every one of them had to be an input."""
        made = []
        for i, tensor in enumerate(self.change.constants):
            value = AttributeProto(name="value", type=AttributeProto.TENSOR, t=tensor)
            value.t.ClearField("name")
            proto = NodeProto(op_type="Constant", output=[tensor.name], attribute=[value])
            made.append(self._made(proto, f"{self.scope.path}:constant~{i}"))
        return made

    def _is_forgotten(self, item: Field) -> bool:
        outline = self.scope.outline
        if item.number != outline.kind.value_info or not self.change.forgotten:
            return False
        info = parse(ValueInfoProto, bytes(outline.buffer[item.start : item.end]))
        return info.name in self.change.forgotten


def sweep(gone: Collection[Node], kept: Collection[str]) -> list[Node]:
    """Nodes that nobody needs once some others are gone, those included: what only computed sizes for them, say.

    Args:
        gone: nodes that go.
        kept: names of values that something new reads.
    """
    dead = {id(node): node for node in gone}
    pending = list(gone)
    while pending:
        for value in _read(pending.pop()):
            node = value.producer
            if node is None or value.name in kept or id(node) in dead or not _is_unread(node, dead):
                continue
            dead[id(node)] = node
            pending.append(node)
    return list(dead.values())


def _read(node: Node) -> Iterator[Value]:
    return (value for value in node.inputs if value is not None)


def _is_unread(node: Node, dead: Mapping[int, Node]) -> bool:
    made = [value for value in node.outputs if value is not None]
    return not node.subgraphs and all(
        not value.is_output and all(id(use.node) in dead for use in value.uses) for value in made
    )
