"""Our own small view of a graph: values, nodes, who makes what, who reads what, in which scope.

The view is read-only. It covers the main graph, the bodies of If, Loop and Scan with the values that they capture from
outside, and model-local functions. Identity is Python identity: two values are the same only if they are one object.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from onnx import AttributeProto, NodeProto, TypeProto

from normfold.errors import InputError
from normfold.model.outline import NodeOutline, ScopeOutline
from normfold.model.tensors import FileTensor

STANDARD = ("", "ai.onnx")


class Use(NamedTuple):
    """One reading of a value: the node that reads it (perhaps inside a subgraph) and the input slot."""

    node: Node
    slot: int


class Value:
    """One tensor of a scope. `producer` is None for inputs, initializers and values that subgraph inputs bind."""

    __slots__ = (
        "exposed",
        "is_input",
        "is_output",
        "name",
        "output_slot",
        "producer",
        "scope",
        "sparse_dims",
        "tensor",
        "type",
        "uses",
    )

    def __init__(self, name: str, scope: Scope) -> None:
        self.name = name
        self.scope = scope
        self.producer: Node | None = None
        self.output_slot = 0
        self.tensor: FileTensor | None = None
        self.type: TypeProto | None = None
        self.uses: list[Use] = []
        self.is_input = False
        self.is_output = False
        self.sparse_dims: tuple[int, ...] | None = None  # of an initializer that is stored sparsely
        self.exposed = False  # an initializer that a caller may override through a graph input

    def __repr__(self) -> str:
        return f"Value({self.name!r})"


class Node:
    """One operator. `inputs` holds None where an optional input is left out."""

    __slots__ = (
        "_attributes",
        "_bound_by_caller",
        "domain",
        "index",
        "inputs",
        "is_call",
        "op_type",
        "outline",
        "outputs",
        "scope",
        "subgraphs",
    )

    def __init__(self, scope: Scope, index: int, outline: NodeOutline) -> None:
        self.scope = scope
        self.index = index
        self.outline = outline
        self.op_type = outline.proto.op_type
        domain = outline.proto.domain
        self.domain = "" if domain in STANDARD else domain
        self.inputs: list[Value | None] = []
        self.outputs: list[Value | None] = []
        self.subgraphs: list[Scope] = []
        self.is_call = False  # of a function that the model brings along
        self._attributes: dict[str, AttributeProto] | None = None
        self._bound_by_caller: bool | None = None

    @property
    def proto(self) -> NodeProto:
        """The parsed node, without payloads of large tensors and without graphs."""
        return self.outline.proto

    @property
    def label(self) -> str:
        """What people call it: its name, else the name of its first output, else its position."""
        named: str = self.proto.name or next((value.name for value in self.outputs if value), "")
        return named or f"{self.op_type}#{self.index}"

    @property
    def key(self) -> str:
        """A stable identifier, unique in the model: path of the scope and position of the node, in the file as it is read."""
        origin = self.outline.origin
        return f"{self.scope.path}:{self.index}" if origin is None else origin.key

    @property
    def body_key(self) -> str:
        """The key of the node in a function body that this is a copy of; its own where it is none."""
        origin = self.outline.origin
        return self.key if origin is None else origin.body

    @property
    def call(self) -> str | None:
        """The key of the inlined call that brought the node here, perhaps inside of a body; None if none did."""
        node: Node | None = self
        while node is not None:
            if node.outline.origin is not None and node.outline.origin.call is not None:
                return node.outline.origin.call
            node = node.scope.owner
        return None

    @property
    def attributes(self) -> dict[str, AttributeProto]:
        """Attributes by name."""
        if self._attributes is None:
            self._attributes = {attribute.name: attribute for attribute in self.proto.attribute}
        return self._attributes

    @property
    def is_bound_by_caller(self) -> bool:
        """Whether an attribute gets its value where the function is called that the node is in the body of."""
        if self._bound_by_caller is None:  # each rule asks
            self._bound_by_caller = any(attribute.ref_attr_name for attribute in self.proto.attribute)
        return self._bound_by_caller

    def input(self, slot: int) -> Value | None:
        """The value in an input slot, None where it is left out."""
        return self.inputs[slot] if slot < len(self.inputs) else None

    @property
    def output(self) -> Value:
        """The first output."""
        value = self.outputs[0]
        assert value is not None
        return value

    def named_outputs(self) -> int:
        """How many outputs have a name."""
        return sum(value is not None for value in self.outputs)

    def __repr__(self) -> str:
        return f"Node({self.op_type} {self.label!r})"


class Scope:
    """A graph, the body of a control-flow node, or the body of a function."""

    def __init__(self, path: str, outline: ScopeOutline, opset: dict[str, int], owner: Node | None = None) -> None:
        self.path = path
        self.outline = outline
        self.opset = opset
        self.owner = owner
        self.parent: Scope | None = owner.scope if owner else None
        self.values: dict[str, Value] = {}
        self.nodes: list[Node] = []
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []

    @property
    def depth(self) -> int:
        """How many scopes this one lies inside of."""
        scope, depth = self, 0
        while scope.parent is not None:
            scope, depth = scope.parent, depth + 1
        return depth

    @property
    def root(self) -> Scope:
        """The graph or function body that the scope is part of, itself if it is one."""
        scope = self
        while scope.parent is not None:
            scope = scope.parent
        return scope

    @property
    def is_function(self) -> bool:
        """Whether this is a function body, which cannot hold initializers."""
        return self.root.outline.kind.initializer == 0

    @property
    def version(self) -> int:
        """Opset of the standard domain, 0 if not imported."""
        return self.opset.get("", 0)

    def lookup(self, name: str) -> Value | None:
        """The value of that name, here or in an enclosing scope."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            scope = scope.parent
        return None

    def define(self, name: str) -> Value:
        """A new value.

        Raises:
            InputError: `graph.ssa`, the name is taken in this scope.
        """
        if name in self.values:
            raise InputError(
                "graph.ssa", f"the value {name!r} is defined twice", hint="the model is invalid; export it again"
            )
        value = self.values[name] = Value(name, self)
        return value

    def walk(self) -> Iterator[Scope]:
        """This scope and every scope nested in it."""
        pending = [self]
        while pending:
            scope = pending.pop()
            yield scope
            for node in reversed(scope.nodes):
                if node.subgraphs:
                    pending.extend(reversed(node.subgraphs))


def add_nodes(scope: Scope) -> None:
    """Create the nodes of a scope with the values that they produce, and those of nested scopes."""
    for index, outline in enumerate(scope.outline.nodes):
        node = Node(scope, index, outline)
        scope.nodes.append(node)
        for slot, name in enumerate(outline.proto.output):
            value = scope.define(name) if name else None
            if value is not None:
                value.producer, value.output_slot = node, slot
            node.outputs.append(value)


def connect(scope: Scope) -> None:
    """Resolve the inputs of every node of this scope (nested scopes are connected by their own call).

    Raises:
        InputError: `graph.dangling`, a value that nobody defines; `graph.cycle`.
    """
    here = scope.values
    for node in scope.nodes:
        for slot, name in enumerate(node.proto.input):
            value = (here.get(name) or _outer(scope, node, name)) if name else None
            if value is not None:
                value.uses.append(Use(node, slot))
            node.inputs.append(value)


def _outer(scope: Scope, node: Node, name: str) -> Value:
    value = scope.lookup(name)
    if value is None:
        raise InputError(
            "graph.dangling",
            f"node {node.label!r} reads {name!r}, which nothing defines",
            hint="the model is incomplete; export it again",
        )
    return value


def sort(scope: Scope) -> bool:
    """Bring `scope.nodes` into execution order, keeping the order of the file where it is one.

    Returns:
        Whether the file's own order had to be changed.

    Raises:
        InputError: `graph.cycle`.
    """
    if all(_is_in_order(node) for node in scope.nodes):
        return False
    needs = {id(node): _producers(node) for node in scope.nodes}
    waiting = {key: len(producers) for key, producers in needs.items()}
    readers: dict[int, list[Node]] = {}
    for node in scope.nodes:
        for earlier in needs[id(node)]:
            readers.setdefault(id(earlier), []).append(node)
    ready = deque(node for node in scope.nodes if not waiting[id(node)])
    ordered: list[Node] = []
    while ready:
        node = ready.popleft()
        ordered.append(node)
        for reader in readers.get(id(node), ()):
            waiting[id(reader)] -= 1
            if not waiting[id(reader)]:
                ready.append(reader)
    if len(ordered) != len(scope.nodes):
        stuck = next(node for node in scope.nodes if waiting[id(node)])
        raise InputError("graph.cycle", f"node {stuck.label!r} depends on its own output", hint="the model is invalid")
    scope.nodes[:] = ordered
    return True


def _is_in_order(node: Node) -> bool:
    """Whether all that the node needs stands before it in the file."""
    if node.subgraphs:
        return all(earlier.index < node.index for earlier in _producers(node))
    scope, index = node.scope, node.index
    for value in node.inputs:
        if value is not None and value.producer is not None and value.producer.index >= index and value.scope is scope:
            return False
    return True


def _producers(node: Node) -> list[Node]:
    """The nodes of the same scope that must run before, those that its subgraphs capture from included."""
    found: list[Node] = []
    pending = [node]
    while pending:
        current = pending.pop()
        read = list(current.inputs)
        for inner in current.subgraphs:
            pending.extend(inner.nodes)
            read += inner.outputs
        found += [v.producer for v in read if v is not None and v.scope is node.scope and v.producer is not None]
    return found
