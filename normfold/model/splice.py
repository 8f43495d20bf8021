"""Candidate -> bytes: untouched ranges are copied from the original file, changed ones are written anew.

What nobody edited comes out byte for byte, unknown fields included, because it never goes through a parser. The result
is a list of pieces, so that a weight is computed while it is written and never stands in memory as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from onnx import AttributeProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto, ValueInfoProto

from normfold.model.deferred import Deferred
from normfold.model.graph import Node, Scope
from normfold.model.load import Model
from normfold.model.outline import (
    ATTRIBUTE_GRAPH,
    ATTRIBUTE_GRAPHS,
    ATTRIBUTE_TENSOR,
    FUNCTION,
    FUNCTION_OPSET,
    MODEL_FUNCTION,
    MODEL_GRAPH,
    MODEL_METADATA,
    MODEL_OPSET,
    NODE_ATTRIBUTE,
    NODE_INPUT,
    NODE_OP_TYPE,
    NODE_OUTPUT,
    TENSOR_RAW,
    NodeOutline,
    ScopeOutline,
    parse,
)
from normfold.model.patch import Candidate, NodePatch, ScopePatch
from normfold.model.tensors import External, FileTensor, NewTensor
from normfold.model.wire import Field, fields, header

METADATA_PREFIX = "pkg.normfold."

Piece = bytes | memoryview | NewTensor
Bodies = Mapping[tuple[int, int], Scope]  # of one node, by index of the attribute and position in it
Relocate = Callable[[FileTensor | NewTensor], External | None]


class Pieces:
    """A growing list of pieces that knows its length in bytes; adjacent ranges of one buffer are joined."""

    def __init__(self) -> None:
        self.length = 0
        self._items: list[Piece | tuple[memoryview, int, int]] = []

    def add(self, piece: Piece) -> None:
        """Append new bytes, or a tensor whose payload is computed when it is written."""
        self._items.append(piece)
        self.length += piece.nbytes if isinstance(piece, NewTensor) else len(piece)

    def copy(self, buffer: memoryview, start: int, end: int) -> None:
        """Append a range of a buffer."""
        self.length += end - start
        last = self._items[-1] if self._items else None
        if isinstance(last, tuple) and last[0] is buffer and last[2] == start:
            self._items[-1] = (buffer, last[1], end)
        else:
            self._items.append((buffer, start, end))

    def nest(self, number: int, inner: Pieces) -> None:
        """Append a message as a field."""
        self.add(header(number, inner.length))
        self._items += inner._items
        self.length += inner.length

    def message(self, number: int, payload: bytes | memoryview) -> None:
        """Append a length-delimited field."""
        self.add(header(number, len(payload)))
        self.add(payload)

    def copied(self, buffer: memoryview) -> Iterator[tuple[int, int]]:
        """The ranges of a buffer that are taken over, in the order of the result."""
        for item in self._items:
            if isinstance(item, tuple) and item[0] is buffer:
                yield item[1], item[2]

    def __iter__(self) -> Iterator[Piece]:
        for item in self._items:
            yield item[0][item[1] : item[2]] if isinstance(item, tuple) else item


def splice(candidate: Candidate, relocate: Relocate) -> Pieces:
    """The candidate as pieces, in file order.

    Args:
        candidate: model and changes.
        relocate: where a tensor lies in the new data file, None if it is inline, or taken in.
    """
    model = candidate.model
    out = Pieces()
    if candidate.is_original and not model.has_external_data():
        out.copy(model.buffer, 0, len(model.buffer))
        return out
    functions = {item.tag: scope for item, scope in model.functions}
    imports = model.imports.get(model.graph.path)
    writer = _Writer(candidate.scopes, model.imports, relocate)
    for item in model.order:
        if item is model.graph_field:
            out.nest(MODEL_GRAPH, writer.scope(model.graph))
        elif item.number == MODEL_FUNCTION:
            out.nest(MODEL_FUNCTION, writer.scope(functions[item.tag]))
        elif item.number == MODEL_OPSET and imports is not None:
            continue
        elif item.number != MODEL_METADATA or not _is_ours(model, item):
            out.copy(model.buffer, item.tag, item.end)
    if imports is not None:
        _write_imports(out, MODEL_OPSET, imports)
    for key in sorted(candidate.metadata):
        out.message(MODEL_METADATA, StringStringEntryProto(key=key, value=candidate.metadata[key]).SerializeToString())
    return out


def _write_imports(out: Pieces, number: int, imports: Mapping[str, int]) -> None:
    """The opset imports of a model or function, where a version changed or a domain was added."""
    for domain, version in sorted(imports.items()):
        out.message(number, OperatorSetIdProto(domain=domain, version=version).SerializeToString())


def _is_ours(model: Model, item: Field) -> bool:
    entry = parse(StringStringEntryProto, bytes(model.buffer[item.start : item.end]))
    return entry.key.startswith(METADATA_PREFIX)


def node_bytes(node: Node) -> bytes:
    """A node with everything in it as it stands in a model that may not be written yet; external data stays where it is.

    Raises:
        RangeRefusal: a new tensor in it leaves the range of its type.
    """
    here = node.outline
    if not node.subgraphs and not isinstance(here.tensors.get(0), Deferred):
        return bytes(here.buffer[here.field.start : here.field.end])
    writer = _Writer({}, {}, lambda tensor: tensor.external if isinstance(tensor, FileTensor) else None)
    payload = (
        piece.payload() if isinstance(piece, NewTensor) else piece for piece in writer.node(None, here, _inner(node))
    )
    return b"".join(payload)


def _inner(node: Node) -> Bodies:
    subs = zip(node.outline.subgraphs, node.subgraphs, strict=True)
    return {(sub.attribute, sub.position): nested for sub, nested in subs}


class _Writer:
    def __init__(
        self, scopes: Mapping[int, ScopePatch], imports: Mapping[str, Mapping[str, int]], relocate: Relocate
    ) -> None:
        self.scopes = scopes
        self.imports = imports
        self.relocate = relocate

    def scope(self, scope: Scope) -> Pieces:
        outline, kind = scope.outline, scope.outline.kind
        patch = self.scopes.get(id(scope)) or ScopePatch()
        inner = {node.index: _inner(node) for node in scope.nodes if node.subgraphs}
        out = Pieces()
        nodes = initializers = 0
        pending_added = bool(patch.added or outline.added)
        for item in outline.order:
            if item.number == kind.node:
                self._node_slot(out, patch, nodes, outline.nodes[nodes], inner.get(nodes, {}), kind.node)
                nodes += 1
            elif item.number == kind.initializer and kind.initializer:
                self._initializer(out, patch, initializers, outline)
                initializers += 1
                if initializers == len(outline.initializers) and pending_added:
                    self._added(out, patch, outline)
                    pending_added = False
            elif item.number == FUNCTION_OPSET and kind is FUNCTION and scope.path in self.imports:
                continue
            elif not _is_dropped(outline, item, patch):
                out.copy(outline.buffer, item.tag, item.end)
        if pending_added:
            self._added(out, patch, outline)
        for node in patch.appended:
            out.message(kind.node, node.SerializeToString())
        for number, infos in ((kind.input, patch.added_inputs), (kind.output, patch.added_outputs)):
            for info in infos:
                out.message(number, info.SerializeToString())
        if kind is FUNCTION and scope.path in self.imports:
            _write_imports(out, FUNCTION_OPSET, self.imports[scope.path])
        return out

    # --- nodes ---

    def _node_slot(
        self,
        out: Pieces,
        patch: ScopePatch,
        index: int,
        node: NodeOutline,
        inner: Bodies,
        number: int,
    ) -> None:
        for tensor in patch.constants.get(index, ()):
            out.nest(number, self._constant_node(tensor))
        for extra in patch.before.get(index, ()):
            out.message(number, extra.SerializeToString())
        if index not in patch.dropped_nodes:
            self._node(out, patch.nodes.get(index), node, inner, number)
        for extra in patch.after.get(index, ()):
            out.message(number, extra.SerializeToString())

    def _node(self, out: Pieces, patch: NodePatch | None, node: NodeOutline, inner: Bodies, number: int) -> None:
        if patch is None and not self._touched(node, inner) and not isinstance(node.tensors.get(0), Deferred):
            out.copy(node.buffer, node.field.tag, node.field.end)
        else:
            out.nest(number, self.node(patch, node, inner))

    def node(self, patch: NodePatch | None, node: NodeOutline, inner: Bodies) -> Pieces:
        """The node written anew, without the header of its field."""
        held = node.tensors.get(0)
        if not isinstance(held, Deferred):
            return self._rewritten(patch or NodePatch(), node, inner, self._touched(node, inner))
        names = patch.outputs if patch is not None else None
        return self._constant_node(replace(held.new, name=names[0]) if names else held.new)

    def _touched(self, node: NodeOutline, inner: Bodies) -> set[int]:
        """The attributes that are not what the file has."""
        touched = {attribute for attribute, _ in inner if self._changes(inner)}
        return touched | {index for index, tensor in node.tensors.items() if tensor.external is not None}

    def _changes(self, inner: Bodies) -> bool:
        return any(
            id(scope) in self.scopes or scope.outline.rebuilt or _has_external(scope)
            for nested in inner.values()
            for scope in nested.walk()
        )

    def _rewritten(self, patch: NodePatch, node: NodeOutline, inner: Bodies, touched: set[int]) -> Pieces:
        """The node with its changed parts; every other field is copied as it stands."""
        out = Pieces()
        replaced = {NODE_INPUT: patch.inputs, NODE_OUTPUT: patch.outputs}
        for number, names in replaced.items():
            for name in names or ():
                out.message(number, name.encode())
        names = [attribute.name for attribute in node.proto.attribute]
        attribute = -1
        for item in fields(node.buffer, node.field.start, node.field.end):
            if item.number in replaced and replaced[item.number] is not None:
                continue
            if item.number == NODE_OP_TYPE and patch.op_type is not None:
                out.message(NODE_OP_TYPE, patch.op_type.encode())
                continue
            if item.number == NODE_ATTRIBUTE:
                attribute += 1
                if names[attribute] in patch.attributes:
                    continue
                if attribute in touched:
                    out.nest(NODE_ATTRIBUTE, self._attribute(item, attribute, node, inner))
                    continue
            out.copy(node.buffer, item.tag, item.end)
        for new in patch.attributes.values():
            if new is not None:
                out.message(NODE_ATTRIBUTE, new.SerializeToString())
        return out

    def _attribute(self, item: Field, index: int, node: NodeOutline, inner: Bodies) -> Pieces:
        out = Pieces()
        position = 0
        for part in fields(node.buffer, item.start, item.end):
            if part.number in (ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS):
                out.nest(part.number, self.scope(inner[index, position]))
                position += 1
            elif part.number == ATTRIBUTE_TENSOR and index in node.tensors:
                out.nest(part.number, self._moved(node.buffer, part, node.tensors[index]))
            else:
                out.copy(node.buffer, part.tag, part.end)
        return out

    def _constant_node(self, tensor: NewTensor) -> Pieces:
        """`Constant` with the tensor as its value, for bodies that cannot hold initializers."""
        value = Pieces()
        shell = AttributeProto(name="value", type=AttributeProto.TENSOR)
        value.add(shell.SerializeToString())
        value.nest(ATTRIBUTE_TENSOR, self._inline(tensor))
        node = Pieces()
        node.add(NodeProto(output=[tensor.name], op_type="Constant").SerializeToString())
        node.nest(NODE_ATTRIBUTE, value)
        return node

    # --- tensors ---

    def _initializer(self, out: Pieces, patch: ScopePatch, index: int, outline: ScopeOutline) -> None:
        item, tensor = outline.initializers[index]
        if index in patch.replaced:
            out.nest(item.number, self._new(patch.replaced[index]))
        elif index in patch.dropped_initializers:
            return
        elif tensor.external is not None:
            out.nest(item.number, self._moved(outline.buffer, item, tensor))
        else:
            out.copy(outline.buffer, item.tag, item.end)

    def _added(self, out: Pieces, patch: ScopePatch, outline: ScopeOutline) -> None:
        """Initializers that the file does not have: those that came with new nodes, and those that edits made."""
        number = outline.kind.initializer
        for index, tensor in enumerate(outline.added, start=len(outline.initializers)):
            if index in patch.replaced:
                out.nest(number, self._new(patch.replaced[index]))
            elif index in patch.dropped_initializers:
                continue
            elif isinstance(tensor, Deferred):
                out.nest(number, self._new(tensor.new))
            else:
                out.message(number, tensor.owner.SerializeToString(deterministic=True))
        for new in patch.added:
            out.nest(number, self._new(new))

    def _new(self, tensor: NewTensor) -> Pieces:
        place = self.relocate(tensor)
        if place is None:
            return self._inline(tensor)
        out = Pieces()
        proto = TensorProto(dims=tensor.dims, data_type=tensor.data_type, name=tensor.name)
        _set_external(proto, place)
        out.add(proto.SerializeToString())
        return out

    def _inline(self, tensor: NewTensor) -> Pieces:
        out = Pieces()
        out.add(TensorProto(dims=tensor.dims, data_type=tensor.data_type, name=tensor.name).SerializeToString())
        out.add(header(TENSOR_RAW, tensor.nbytes))
        out.add(tensor)
        return out

    def _moved(self, buffer: memoryview, item: Field, tensor: FileTensor) -> Pieces:
        """An external tensor with its record pointing into the new data file, or with its payload taken in."""
        out = Pieces()
        place = None if tensor.external is None else self.relocate(tensor)
        if tensor.external is None or place is tensor.external:  # it stays where it is
            out.copy(buffer, item.start, item.end)
            return out
        proto = parse(TensorProto, bytes(buffer[item.start : item.end]))
        del proto.external_data[:]
        if place is not None:
            _set_external(proto, place)
            out.add(proto.SerializeToString())
            return out
        proto.ClearField("data_location")
        out.add(proto.SerializeToString())
        out.message(TENSOR_RAW, tensor.raw())
        return out


def _is_dropped(outline: ScopeOutline, item: Field, patch: ScopePatch) -> bool:
    """Whether a graph input or output, or what is declared about a value, is to go."""
    kind = outline.kind
    places = {kind.input: patch.dropped_inputs, kind.output: patch.dropped_outputs, kind.value_info: patch.dropped_info}
    dropped = places.get(item.number)
    if not dropped:
        return False
    return parse(ValueInfoProto, bytes(outline.buffer[item.start : item.end])).name in dropped


def _has_external(scope: Scope) -> bool:
    return any(tensor.external is not None for _, tensor in scope.outline.initializers) or any(
        tensor.external is not None for node in scope.outline.nodes for tensor in node.tensors.values()
    )


def _set_external(proto: TensorProto, place: External) -> None:
    proto.data_location = TensorProto.EXTERNAL
    for key, value in (("location", place.location), ("offset", str(place.offset)), ("length", str(place.length))):
        proto.external_data.add(key=key, value=value)
