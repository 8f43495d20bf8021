"""The outline of a model file: which bytes are which node, initializer, function or metadata entry.

Everything is parsed one by one from its own byte range; the payload of a large tensor is never handed to protobuf.
Field numbers are those of onnx.proto3.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]
from onnx import AttributeProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto, ValueInfoProto

from normfold.errors import InputError
from normfold.model.caps import MOST_ELEMENTS
from normfold.model.dtypes import MOST_AXES
from normfold.model.external import DataFiles
from normfold.model.opener import check_location
from normfold.model.tensors import External, FileTensor
from normfold.model.wire import LENGTH, Field, fields, header, malformed

M = TypeVar("M", bound=Message)

# Nodes and tensors up to this size are parsed whole; above it, the payload is left in the file.
WHOLE = 4096

MODEL_GRAPH, MODEL_OPSET, MODEL_METADATA, MODEL_TRAINING, MODEL_FUNCTION = 7, 8, 14, 20, 25
NODE_INPUT, NODE_OUTPUT, NODE_NAME, NODE_OP_TYPE, NODE_ATTRIBUTE, NODE_DOMAIN = 1, 2, 3, 4, 5, 7
ATTRIBUTE_NAME, ATTRIBUTE_TENSOR, ATTRIBUTE_GRAPH, ATTRIBUTE_TENSORS, ATTRIBUTE_GRAPHS = 1, 5, 6, 10, 11
TENSOR_RAW = 9
FUNCTION_OPSET = 9
_WITH_HIDDEN_TENSORS = (AttributeProto.TENSORS, AttributeProto.SPARSE_TENSOR, AttributeProto.SPARSE_TENSORS)


_TEXTS: dict[type[Message], tuple[str, ...]] = {
    OperatorSetIdProto: ("domain",),
    StringStringEntryProto: ("key", "value"),
    TensorProto: ("name",),
    ValueInfoProto: ("name",),
}


class ScopeKind(NamedTuple):
    """Where GraphProto and FunctionProto keep the same things; 0 where one has none."""

    name: str
    node: int
    initializer: int
    input: int
    output: int
    value_info: int
    sparse: int


GRAPH = ScopeKind("graph", node=1, initializer=5, input=11, output=12, value_info=13, sparse=15)
FUNCTION = ScopeKind("function", node=7, initializer=0, input=4, output=5, value_info=12, sparse=0)


class SubgraphOutline(NamedTuple):
    """A graph attribute of a node: index among the node's attributes, position in `graphs`, outline."""

    attribute: int
    position: int
    outline: ScopeOutline


class Origin(NamedTuple):
    """Where a node of an inlined model comes from.

    Args:
        key: its identifier, which does not depend on what else was inlined.
        body: that of the node in the body of the function that it is a copy of; `key` if it is none.
        call: the key of the call that it stands for, None if it stood in the graph before.
    """

    key: str
    body: str
    call: str | None


@dataclass(slots=True)
class NodeOutline:
    """One node: its field and the buffer that the field lies in, its parsed header, payloads left there, its subgraphs.

    `tensors` goes by the index of the attribute; `origin` is None where the file itself says where the node stands.
    """

    field: Field
    buffer: memoryview
    proto: NodeProto
    tensors: dict[int, FileTensor] = dataclasses.field(default_factory=dict)
    subgraphs: list[SubgraphOutline] = dataclasses.field(default_factory=list)
    origin: Origin | None = None


@dataclass(slots=True)
class ScopeOutline:
    """One graph or function body: all its fields in file order, and the parsed ones by kind.

    `rebuilt`: other nodes stand in the place of some, so that it is not the bytes from `start` to `end` any more; `added`
    are initializers that came with them, counted on behind those of the file.
    """

    kind: ScopeKind
    buffer: memoryview
    start: int
    end: int
    order: list[Field]
    nodes: list[NodeOutline]
    initializers: list[tuple[Field, FileTensor]]
    rebuilt: bool = False
    added: list[FileTensor] = dataclasses.field(default_factory=list)

    @property
    def tensors(self) -> list[FileTensor]:
        """All initializers, by their number."""
        return [*(tensor for _, tensor in self.initializers), *self.added]


class Reader:
    """Builds outlines over one buffer."""

    def __init__(self, buffer: memoryview, files: DataFiles) -> None:
        self.buffer = buffer
        self.files = files
        self._entries = 0

    def entries(self, start: int, end: int) -> list[Field]:
        """The fields of a graph or function, or of the whole file, which are counted.

        Raises:
            InputError: `input.malformed`, `resource.cap`.
        """
        caps = self.files.caps
        found = list(itertools.islice(fields(self.buffer, start, end), caps.entries - self._entries + 1))
        self._entries += len(found)
        if self._entries > caps.entries:
            raise caps.exceeded("entries", "nodes, initializers and the like, all together, are")
        return found

    def scope(self, start: int, end: int, kind: ScopeKind, depth: int = 0) -> ScopeOutline:
        """The outline of the graph or function in `buffer[start:end]`.

        Raises:
            InputError: `input.malformed`, `proto.depth`, `resource.cap`, `extdata.*`, `tensor.*`.
        """
        if depth > self.files.caps.subgraph_depth:
            raise self.files.caps.exceeded("subgraph_depth", "subgraphs are nested at a depth of", "proto.depth")
        outline = ScopeOutline(kind, self.buffer, start, end, self.entries(start, end), [], [])
        messages = set(kind[1:])
        for item in outline.order:
            if item.number in messages and item.wire_type != LENGTH:
                raise malformed("a number in the place of a message", item.tag)
            if item.number == kind.node:
                outline.nodes.append(self.node(item, depth))
            elif item.number == kind.initializer:
                outline.initializers.append((item, self.tensor(item)))
        return outline

    def node(self, item: Field, depth: int) -> NodeOutline:
        """One node; its subgraphs are outlined as well."""
        if item.end - item.start <= WHOLE:
            # What protobuf cannot parse as a whole, deep nesting for one, is walked below, which says what is wrong.
            with contextlib.suppress(DecodeError, UnicodeDecodeError):
                result = NodeOutline(item, self.buffer, NodeProto.FromString(self.bytes(item)))
                if _adopt_tensors(result, self.files):
                    return result
        result = NodeOutline(item, self.buffer, NodeProto())
        self._large_node(result, depth)
        for attribute in result.proto.attribute:
            _refuse_hidden_data(attribute)
        return result

    def _large_node(self, node: NodeOutline, depth: int) -> None:
        """Parse all of the node but graphs and tensor payloads, which stay in the file."""
        plain = bytearray()
        caps = self.files.caps
        parts = list(itertools.islice(fields(self.buffer, node.field.start, node.field.end), caps.parts + 1))
        if len(parts) > caps.parts:
            raise caps.exceeded("parts", "inputs, outputs and attributes of one node are")
        attributes = [f for f in parts if f.number == NODE_ATTRIBUTE]
        for item in parts:
            if item.number != NODE_ATTRIBUTE:
                plain += self.buffer[item.tag : item.end]
        for index, item in enumerate(attributes):
            shell = self._attribute(node, index, item, depth)
            plain += header(NODE_ATTRIBUTE, len(shell)) + shell
        node.proto = parse(NodeProto, bytes(plain))

    def _attribute(self, node: NodeOutline, index: int, item: Field, depth: int) -> bytes:
        shell = bytearray()
        position = 0
        single: set[int] = set()
        for part in fields(self.buffer, item.start, item.end):
            if part.number in (ATTRIBUTE_TENSOR, ATTRIBUTE_GRAPH):
                if part.number in single:  # one parser merges the two, another takes the last
                    raise malformed("an attribute with two values", part.tag)
                single.add(part.number)
            if part.number in (ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS) and part.wire_type == LENGTH:
                outline = self.scope(part.start, part.end, GRAPH, depth + 1)
                node.subgraphs.append(SubgraphOutline(index, position, outline))
                position += 1
            elif part.number == ATTRIBUTE_TENSOR and part.end - part.start > WHOLE:
                node.tensors[index] = self.tensor(part)
            else:
                shell += self.buffer[part.tag : part.end]
                if part.number == ATTRIBUTE_TENSOR:
                    node.tensors[index] = self.tensor(part)
        return bytes(shell)

    def tensor(self, item: Field) -> FileTensor:
        """A tensor; a large raw payload stays where it is."""
        if item.end - item.start <= WHOLE:
            return file_tensor(parse(TensorProto, self.bytes(item)), self.files)
        shell = bytearray()
        payload: Field | None = None
        for part in fields(self.buffer, item.start, item.end):
            if part.number != TENSOR_RAW:
                shell += self.buffer[part.tag : part.end]
            elif payload is not None:
                raise malformed("a tensor with two payloads", part.tag)
            else:
                payload = part
        inline = None if payload is None else self.buffer[payload.start : payload.end]
        return file_tensor(parse(TensorProto, bytes(shell)), self.files, inline)

    def bytes(self, item: Field) -> bytes:
        """The payload of a field, copied."""
        return bytes(self.buffer[item.start : item.end])


def parse(kind: type[M], data: bytes) -> M:
    """A protobuf message from its bytes.

    Raises:
        InputError: `input.malformed`.
    """
    try:
        message: M = kind.FromString(data)
    except (DecodeError, UnicodeDecodeError) as error:
        raise InputError("input.malformed", f"not a valid ONNX file: {kind.__name__}: {error}") from None
    require_text(*(getattr(message, name) for name in _TEXTS.get(kind, ())))
    if isinstance(message, ValueInfoProto):
        require_text(*(dim.dim_param for dim in message.type.tensor_type.shape.dim))
    return message


def require_text(*values: object) -> None:
    """Text of the file is text. Protobuf returns what is not UTF-8 as bytes, where every reader expects a str.

    Raises:
        InputError: `input.malformed`.
    """
    if bytes in map(type, values):
        raise InputError("input.malformed", "not a valid ONNX file: text that is not UTF-8", hint="export it again")


def file_tensor(proto: TensorProto, files: DataFiles, inline: memoryview | None = None) -> FileTensor:
    """Wrap a tensor, after checking what its header claims.

    Raises:
        InputError: `tensor.dims`, `tensor.payload`, `extdata.record`, `extdata.location`, `extdata.escape`.
    """
    require_text(proto.name)
    dims = proto.dims
    if len(dims) > MOST_AXES:  # before they are multiplied, which takes quadratic time
        raise InputError("tensor.dims", f"tensor {proto.name[:80]!r} has {len(dims)} dimensions")
    if dims and (min(dims) < 0 or math.prod(dims) > files.caps.elements):
        if min(dims) >= 0 and math.prod(dims) <= MOST_ELEMENTS:
            raise files.caps.exceeded("elements", f"the elements of tensor {proto.name[:80]!r} are")
        raise InputError("tensor.dims", f"tensor {proto.name!r} cannot have the shape {list(dims)}")
    if proto.data_location != TensorProto.EXTERNAL:
        return FileTensor(proto, files, inline=inline)
    if inline is not None or proto.HasField("raw_data"):
        raise InputError("tensor.payload", f"tensor {proto.name!r} has both inline and external data")
    return FileTensor(proto, files, inline=inline, external=_external(proto, files))


def _external(proto: TensorProto, files: DataFiles) -> External:
    entries = {entry.key: entry.value for entry in proto.external_data}
    require_text(*entries, *entries.values())
    if len(entries) != len(proto.external_data) or not entries.keys() <= {"location", "offset", "length", "checksum"}:
        raise _record_error(proto, "duplicate or unknown keys")
    location = entries.get("location", "")
    check_location(location, proto.name)
    if "checksum" in entries and not files.expect(location, entries["checksum"]):
        raise _record_error(proto, "another checksum than that of an earlier tensor in this file")
    return External(location, _number(proto, entries.get("offset")) or 0, _number(proto, entries.get("length")))


def _number(proto: TensorProto, text: str | None) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise _record_error(proto, "offset and length must be plain numbers")
    return int(text)


def _record_error(proto: TensorProto, what: str) -> InputError:
    return InputError("extdata.record", f"the external data record of tensor {proto.name!r} is invalid: {what}")


def _adopt_tensors(node: NodeOutline, files: DataFiles) -> bool:
    """Wrap the tensors among the attributes of a node; False if one holds a graph, which needs its own outline."""
    for index, attribute in enumerate(node.proto.attribute):
        if attribute.HasField("g") or attribute.graphs:
            return False
        if attribute.HasField("t"):
            node.tensors[index] = file_tensor(attribute.t, files)
        elif attribute.type in _WITH_HIDDEN_TENSORS:
            _refuse_hidden_data(attribute)
    return True


def _refuse_hidden_data(attribute: AttributeProto) -> None:
    for tensor in attribute.tensors:
        refuse_external(tensor)
    for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
        refuse_external(sparse.values)
        refuse_external(sparse.indices)


def refuse_external(proto: TensorProto) -> None:
    """A tensor in a place where the standard foresees no external data.

    Raises:
        InputError: `extdata.record`, it has some.
    """
    if proto.data_location == TensorProto.EXTERNAL:
        raise _record_error(proto, "sparse tensors and lists of tensors keep their data inside the model")
