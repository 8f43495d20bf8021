"""Bytes -> Model: the outline of the file, its graph view, its constants policy."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from onnx import ModelProto, OperatorSetIdProto, SparseTensorProto, StringStringEntryProto, TypeProto, ValueInfoProto

from normfold.errors import EnvironmentProblem, InputError
from normfold.model import dtypes
from normfold.model.external import DataFiles
from normfold.model.functions import Functions
from normfold.model.graph import STANDARD, Node, Scope, Value, add_nodes, connect, sort
from normfold.model.opener import DEFAULT_TRUST, open_model
from normfold.model.outline import (
    FUNCTION,
    FUNCTION_OPSET,
    GRAPH,
    MODEL_FUNCTION,
    MODEL_METADATA,
    MODEL_OPSET,
    MODEL_TRAINING,
    Reader,
    ScopeOutline,
    parse,
    refuse_external,
)
from normfold.model.source import Source
from normfold.model.tensors import FileTensor
from normfold.model.trust import Trust
from normfold.model.validate import check_frame, check_scopes, check_versions
from normfold.model.wire import Field, fields, malformed, read_varint

# Files of this IR version and newer may leave initializers out of the graph inputs; listing one means "overridable".
FIRST_OVERRIDABLE_IR = 4

_QUANTIZATION_ANNOTATION = 14  # field of GraphProto
_MOST_NAMED = 8  # missing files in one message


class Initializers(StrEnum):
    """What to do with initializers that are also graph inputs (IR 4 and newer)."""

    AUTO = "auto"
    FREEZE = "freeze"
    KEEP = "keep"


@dataclass(slots=True)
class Model:
    """A loaded model. Read-only; closing it releases the files."""

    path: Path | None
    buffer: memoryview
    order: list[Field]
    graph_field: Field
    ir_version: int
    opset: dict[str, int]
    metadata: dict[str, str]
    graph: Scope
    functions: list[tuple[Field, Scope]]
    files: DataFiles
    frozen: tuple[str, ...] = ()
    kept_exposed: tuple[str, ...] = ()
    warnings: list[str] = field(default_factory=list)
    inlined: tuple[str, ...] = ()  # keys of the calls in whose place the bodies of functions stand
    source: Source | None = None
    unread: tuple[Value, ...] = ()  # values that had readers, until other nodes came in the place of those
    imports: dict[str, dict[str, int]] = field(default_factory=dict)  # new opset imports, by path of the root scope
    is_rewritten: bool = False  # whether nodes stand in it that the file does not have

    @property
    def trust(self) -> Trust:
        """What is believed of the file that it was read from."""
        return DEFAULT_TRUST if self.source is None else self.source.trust

    @property
    def roots(self) -> list[Scope]:
        """The main graph and the function bodies."""
        return [self.graph, *(scope for _, scope in self.functions)]

    def scopes(self) -> list[Scope]:
        """Every scope of the model."""
        return [scope for root in self.roots for scope in root.walk()]

    def external(self) -> Iterator[FileTensor]:
        """Every tensor that lies in another file."""
        for scope in self.scopes():
            tensors = [tensor for _, tensor in scope.outline.initializers]
            tensors += [tensor for node in scope.nodes for tensor in node.outline.tensors.values()]
            yield from (tensor for tensor in tensors if tensor.external is not None)

    def has_external_data(self) -> bool:
        """Whether any tensor lies in another file."""
        return next(self.external(), None) is not None

    def open_data(self) -> None:
        """Open every data file once, as our own reader would: whatever else reads them must not be led elsewhere.

        Raises:
            InputError: `extdata.*`, see `DataFiles.get`; all files that are missing are named at once.
        """
        wanted: dict[str, str] = {}
        for tensor in self.external():
            if tensor.external is not None:
                wanted.setdefault(tensor.external.location, tensor.name)
        missing: list[tuple[str, InputError]] = []
        for location, name in wanted.items():
            try:
                self.files.get(location, name)
            except InputError as error:
                if error.code != "extdata.missing":
                    raise
                missing.append((location, error))
        if missing:
            raise _missing(missing)

    def require_unchanged(self) -> None:
        """The model and its data are what they were when they were opened.

        Raises:
            InputError: `input.changed`, `extdata.changed`.
        """
        if self.source is not None:
            self.source.require_unchanged()
        self.files.require_unchanged()

    def file_warnings(self) -> list[str]:
        """What is odd about the data files that were read, and does no harm here."""
        return [
            f"the data file {location[:80]!r} is a hard link; onnx refuses to load such files"
            for location in self.files.hard_links()
        ]

    def external_ranges(self) -> set[tuple[str, int, int]]:
        """File, offset and length of what lies in other files; tied tensors count once."""
        return {(t.external.location, t.external.offset, t.nbytes) for t in self.external() if t.external is not None}

    def external_bytes(self) -> int:
        """Bytes of the tensors that lie in other files."""
        return sum(length for _, _, length in self.external_ranges())


def _missing(files: list[tuple[str, InputError]]) -> InputError:
    """One error for all data files that are not there."""
    first = files[0][1]
    if len(files) == 1:
        return first
    names = ", ".join(repr(location[:80]) for location, _ in files[:_MOST_NAMED])
    more = f" and {len(files) - _MOST_NAMED} more" if len(files) > _MOST_NAMED else ""
    folder = str(Path(first.where).parent)
    return InputError(first.code, f"external data files are missing: {names}{more}", where=folder, hint=first.hint)


def load(source: str | Path | Source | ModelProto, *, initializers: Initializers = Initializers.AUTO) -> Model:
    """Read a model.

    Args:
        source: a path, an open file, or a ModelProto, which is not changed.
        initializers: policy for initializers that are also graph inputs.

    Raises:
        InputError: the file is no valid model; the code says what is wrong.
        EnvironmentProblem: `environment.byteorder`.
    """
    if sys.byteorder != "little":
        raise EnvironmentProblem("environment.byteorder", "normfold reads weights in place, on little-endian machines")
    if isinstance(source, ModelProto):
        opened, path, buffer = None, None, memoryview(_serialised(source))
    else:
        opened = source if isinstance(source, Source) else Source(source, hashed=False)
        path, buffer = opened.path, opened.view
    with _collector_paused():
        model = _outline(buffer, DataFiles(path) if opened is None else DataFiles(path, opened.trust), path)
        model.source = opened
        check_versions(model.ir_version, model.opset, model.roots)
        for scope in model.roots:
            build_scopes(scope)
        mark_calls(model)
        for root in model.roots:
            connect_scopes(root, model.warnings)
        Functions(model.functions, model.trust.caps)  # refuses recursion
        model.warnings += check_scopes(model.scopes(), model.trust.caps)
    if any(item.number == MODEL_TRAINING for item in model.order):
        model.warnings.append("training_info is kept as it is; it may name tensors that fold away")
    if any(item.number == _QUANTIZATION_ANNOTATION for item in model.graph.outline.order):
        model.warnings.append("quantization_annotation is kept as it is; it may name tensors that fold away or change")
    _expose(model, initializers)
    if opened is not None and opened.trust.is_strict:
        model.open_data()
    return model


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Loading makes many objects and no garbage; the collector would walk through all of them again and again."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def read_metadata(path: Path) -> dict[str, str]:
    """The `metadata_props` of a model file; nothing else of it is read.

    Raises:
        InputError: the file cannot be opened or is no protobuf message.
    """
    opened = open_model(path)
    items = [item for item in fields(opened.view, 0, opened.size) if item.number == MODEL_METADATA]
    entries = [parse(StringStringEntryProto, bytes(opened.view[item.start : item.end])) for item in items]
    opened.close()
    return {entry.key: entry.value for entry in entries}


def _serialised(model: ModelProto) -> bytes:
    try:
        data: bytes = model.SerializeToString(deterministic=True)
    except Exception as error:  # protobuf raises different types for one cause: more than 2 GiB
        raise InputError(
            "input.proto_2gib",
            f"the model cannot be serialised: {error}",
            hint="save it with external data and pass its path",
        ) from None
    return data


def _outline(buffer: memoryview, files: DataFiles, path: Path | None) -> Model:
    reader = Reader(buffer, files)
    order = reader.entries(0, len(buffer))
    graph_field, version = check_frame(order)
    opset = _opset(reader, [item for item in order if item.number == MODEL_OPSET])
    entries = [parse(StringStringEntryProto, reader.bytes(item)) for item in order if item.number == MODEL_METADATA]
    ir_version = read_varint(buffer, version.start, version.end)[0]
    graph = reader.scope(graph_field.start, graph_field.end, GRAPH)
    functions = [(item, _function(reader, item)) for item in order if item.number == MODEL_FUNCTION]
    metadata = {entry.key: entry.value for entry in entries}
    return Model(
        path, buffer, order, graph_field, ir_version, opset, metadata, Scope("graph", graph, opset), functions, files
    )


def _opset(reader: Reader, items: list[Field]) -> dict[str, int]:
    """Imported version by domain.

    Raises:
        InputError: `opset.ambiguous`, one domain in two versions.
    """
    versions: dict[str, int] = {}
    for item in items:
        entry = parse(OperatorSetIdProto, reader.bytes(item))
        domain = "" if entry.domain in STANDARD else entry.domain
        if versions.setdefault(domain, entry.version) != entry.version:
            raise InputError(
                "opset.ambiguous",
                f"domain {domain or 'ai.onnx'!r} is imported in versions {versions[domain]} and {entry.version}",
            )
    return versions


def _function(reader: Reader, item: Field) -> Scope:
    outline = reader.scope(item.start, item.end, FUNCTION)
    opset = _opset(reader, [part for part in outline.order if part.number == FUNCTION_OPSET])
    name, domain, overload = (_texts(outline, number) for number in (1, 10, 13))
    path = "::".join(part[-1] for part in (domain, name, overload) if part and part[-1])
    return Scope(f"function {path}", outline, opset)


def mark_calls(model: Model) -> None:
    """Note which nodes are calls: one may be named like an operator of another domain and yet call a function."""
    functions = {_function_name(scope) for _, scope in model.functions}
    for scope in model.scopes() if functions else ():
        for node in scope.nodes:
            node.is_call = (node.domain, node.op_type) in functions


def _function_name(scope: Scope) -> tuple[str, str]:
    domain, name = (_texts(scope.outline, number) for number in (10, 1))
    return domain[-1] if domain else "", name[-1] if name else ""


def _texts(outline: ScopeOutline, number: int) -> list[str]:
    """The values of a text field."""
    items = [item for item in outline.order if item.number == number]
    try:
        return [str(outline.buffer[item.start : item.end], "utf-8") for item in items]
    except UnicodeDecodeError:
        raise malformed("text that is not UTF-8", items[0].start) from None


def build_scopes(root: Scope) -> None:
    """Values and nodes of a scope and of all scopes inside it."""
    pending = [root]
    while pending:
        scope = pending.pop()
        _declare(scope)
        add_nodes(scope)
        for node in scope.nodes:
            for sub in node.outline.subgraphs:
                name = node.proto.attribute[sub.attribute].name
                inner = Scope(f"{node.key}/{name}{sub.position or ''}", sub.outline, scope.opset, node)
                node.subgraphs.append(inner)
                pending.append(inner)


def _declare(scope: Scope) -> None:
    """Inputs and initializers."""
    outline = scope.outline
    for name, kind in _inputs(scope, outline):
        value = scope.define(name)
        value.is_input, value.type = True, kind
        scope.inputs.append(value)
    for item in outline.order:
        if item.number == outline.kind.sparse and item.number:
            sparse = parse(SparseTensorProto, bytes(_buffer(scope)[item.start : item.end]))
            refuse_external(sparse.values)
            refuse_external(sparse.indices)
            value = scope.values.get(sparse.values.name) or scope.define(sparse.values.name)
            if value.sparse_dims is not None:
                raise _defined_twice(value.name)
            value.sparse_dims = tuple(sparse.dims)
    seen: set[str] = set()
    for tensor in outline.tensors:
        if tensor.name in seen or not tensor.name:
            raise _defined_twice(tensor.name)
        seen.add(tensor.name)
        value = scope.values.get(tensor.name) or scope.define(tensor.name)
        if value.sparse_dims is not None:
            raise _defined_twice(tensor.name)
        value.tensor = tensor


def _defined_twice(name: str) -> InputError:
    return InputError("graph.ssa", f"the initializer {name!r} is defined twice or has no name")


def _buffer(scope: Scope) -> memoryview:
    return scope.outline.buffer


def _inputs(scope: Scope, outline: ScopeOutline) -> list[tuple[str, TypeProto | None]]:
    if outline.kind is FUNCTION:
        return [(name, None) for name in _texts(outline, outline.kind.input)]
    items = [item for item in outline.order if item.number == outline.kind.input]
    infos = [parse(ValueInfoProto, bytes(_buffer(scope)[item.start : item.end])) for item in items]
    return [(info.name, info.type) for info in infos]


def _outputs(scope: Scope) -> list[str]:
    outline = scope.outline
    if outline.kind is FUNCTION:
        return _texts(outline, outline.kind.output)
    items = [item for item in outline.order if item.number == outline.kind.output]
    return [parse(ValueInfoProto, bytes(_buffer(scope)[item.start : item.end])).name for item in items]


def connect_scopes(root: Scope, warnings: list[str]) -> None:
    """Who makes and who reads what, in a scope and in all scopes inside it; their nodes in execution order.

    Raises:
        InputError: `graph.dangling`, `graph.cycle`.
    """
    scopes = list(root.walk())
    for scope in scopes:
        connect(scope)
        for name in _outputs(scope):
            value = scope.lookup(name)
            if value is None:
                raise InputError(
                    "graph.dangling", f"the output {name!r} is never produced", hint="export the model again"
                )
            value.is_output = True
            scope.outputs.append(value)
    unsorted = [scope.path for scope in reversed(scopes) if sort(scope)]
    warnings += [
        f"the nodes of {path} are not in execution order; normfold keeps the order of the file" for path in unsorted
    ]


def _expose(model: Model, policy: Initializers) -> None:
    """Decide which initializers a caller may override.

    Below IR 4 the format itself demands that every initializer is listed among the inputs, so listing says nothing.
    """
    listed = [value for value in model.graph.inputs if value.tensor is not None]
    if not listed or model.ir_version < FIRST_OVERRIDABLE_IR:
        return
    if policy is Initializers.FREEZE or (policy is Initializers.AUTO and _exporter_habit(model.graph)):
        model.frozen = tuple(value.name for value in listed)
        return
    for value in listed:
        value.exposed = True
    model.kept_exposed = tuple(value.name for value in listed)


def _exporter_habit(graph: Scope) -> bool:
    """All float weights of two or more dimensions are exposed: an exporter did that, not an author."""
    weights = [
        graph.values[tensor.name]
        for _, tensor in graph.outline.initializers
        if len(tensor.dims) >= 2 and dtypes.is_float(tensor.data_type)
    ]
    return bool(weights) and all(value.is_input for value in weights)


def node_count(model: Model) -> int:
    """Nodes in all scopes."""
    return sum(len(scope.nodes) for scope in model.scopes())


def find_nodes(model: Model, name: str) -> list[Node]:
    """Nodes that a user may mean by `name`: node name, output name or key."""
    return [
        node
        for scope in model.scopes()
        for node in scope.nodes
        if name in (node.proto.name, node.key, node.label)
        or any(v is not None and v.name == name for v in node.outputs)
    ]
