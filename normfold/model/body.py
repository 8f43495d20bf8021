"""The nodes that stand for one call: those of the body of its function, under names and with attributes of the caller."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onnx import AttributeProto, NodeProto

from normfold.model.external import DataFiles
from normfold.model.functions import Function
from normfold.model.graph import Node, Scope, Value
from normfold.model.outline import NodeOutline, Origin, Reader, parse
from normfold.model.rename import Fresh, specialise
from normfold.model.splice import node_bytes
from normfold.model.wire import LENGTH, Field, header


class Body:
    """The nodes that stand for a call.

    Args:
        call: the node.
        function: what it calls.
        files: external data of the model.
        fresh: a name that nobody has, made from another.
    """

    def __init__(self, call: Node, function: Function, files: DataFiles, fresh: Fresh) -> None:
        self.call = call
        self.function = function
        self.files = files
        self.new_name = fresh
        self.names: dict[str, str] = {}
        self.copies: list[tuple[str, str]] = []  # outputs that only are another name: what they are, and their name

    def outlines(self) -> list[NodeOutline]:
        """The body in execution order, without what only outputs need that the call leaves out."""
        nodes = self._live()
        self._name(nodes)
        bound = self.function.defaults()
        bound |= {attribute.name: attribute for attribute in self.call.proto.attribute}
        made = [self._node(node, bound) for node in nodes]
        count = len(self.function.scope.nodes)
        for index, (source, target) in enumerate(self.copies, start=count):
            made.append(self._outline(NodeProto(op_type="Identity", input=[source], output=[target]), str(index)))
        return made

    def _live(self) -> list[Node]:
        needed = {id(value) for value, name in self._outputs() if name}
        kept: list[Node] = []
        for node in reversed(self.function.scope.nodes):
            if any(value is not None and id(value) in needed for value in node.outputs):
                kept.append(node)
                needed |= {id(value) for value in _read(node)}
        return kept[::-1]

    def _outputs(self) -> list[tuple[Value, str]]:
        names = list(self.call.proto.output)
        values = self.function.scope.outputs
        return list(zip(values, names + [""] * (len(values) - len(names)), strict=True))

    def _name(self, nodes: Sequence[Node]) -> None:
        """Inputs and outputs of the function are called as the call calls them, the rest gets new names."""
        given = list(self.call.proto.input)
        inputs = self.function.scope.inputs
        for value, name in zip(inputs, given + [""] * (len(inputs) - len(given)), strict=True):
            self.names[value.name] = name
        for value, name in self._outputs():
            if not name:
                continue
            if value.name in self.names:
                self.copies.append((self.names[value.name], name))
            else:
                self.names[value.name] = name
        for node in nodes:
            for made in node.outputs:
                if made is not None and made.name not in self.names:
                    self.names[made.name] = self._fresh(made.name)

    def _fresh(self, name: str) -> str:
        return self.new_name(f"{self.call.label}/{name}")

    def _node(self, node: Node, bound: dict[str, AttributeProto]) -> NodeOutline:
        proto = parse(NodeProto, node_bytes(node))
        specialise(proto, self.names, bound, self._fresh)
        return self._outline(proto, node.key.rpartition(":")[2])

    def _outline(self, proto: NodeProto, place: str) -> NodeOutline:
        """A new node with the key that it has because of its call."""
        outline = node_outline(proto, self.call.scope, self.files)
        key = f"{self.call.key}/{self.function.name}:{place}"
        outline.origin = Origin(key, f"{self.function.scope.path}:{place}", self.call.key)
        return outline


def node_outline(proto: NodeProto, scope: Scope, files: DataFiles) -> NodeOutline:
    """The outline of a new node as if it had been read from a file, to stand in some scope."""
    payload = proto.SerializeToString(deterministic=True)
    start = header(scope.outline.kind.node, len(payload))
    buffer = memoryview(start + payload)
    place = Field(scope.outline.kind.node, LENGTH, 0, len(start), len(buffer))
    return Reader(buffer, files).node(place, scope.depth)


def _read(node: Node) -> Iterator[Value]:
    """What a node reads, the graphs inside of it included."""
    pending = [node]
    while pending:
        current = pending.pop()
        yield from (value for value in current.inputs if value is not None)
        for inner in current.subgraphs:
            yield from inner.outputs
            pending += inner.nodes
