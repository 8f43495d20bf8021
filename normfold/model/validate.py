"""What a loaded model must be before anybody believes it, beyond what is found out while its graph is built.

Names, producers and cycles are judged by `load` and `graph`, which cannot build anything of a model that has them wrong;
functions by `functions`. Here stands the rest: versions, domains, attributes, and every tensor's size against what is
there for it. This is stricter than the checkers of onnx and of runtimes, which disagree with each other, and it has to
be: what two readers understand differently cannot be compared. One pass, no recursion, no payload is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import onnx
from onnx import AttributeProto, TensorProto

from normfold.errors import InputError
from normfold.model import dtypes
from normfold.model.attributes import declared_types
from normfold.model.caps import Caps
from normfold.model.graph import Node, Scope
from normfold.model.outline import (
    MODEL_FUNCTION,
    MODEL_GRAPH,
    MODEL_METADATA,
    MODEL_OPSET,
    MODEL_TRAINING,
    require_text,
)
from normfold.model.tensors import FileTensor
from normfold.model.wire import LENGTH, VARINT, Field, malformed

_NO_IMPORTS_BEFORE = 3  # the IR version that introduced them
_LONGEST_METADATA = 64 << 20  # bytes of one entry; they are copied to be read
_MODEL_IR_VERSION = 1
_ATTRIBUTE_TYPES = frozenset(AttributeProto.AttributeType.values()) - {AttributeProto.UNDEFINED}
_MESSAGES = (MODEL_GRAPH, MODEL_OPSET, MODEL_METADATA, MODEL_TRAINING, MODEL_FUNCTION)


def check_frame(order: list[Field]) -> tuple[Field, Field]:
    """The one graph of a model and its one IR version.

    Raises:
        InputError: `input.malformed`, `input.metadata`.
    """
    for item in order:
        if item.number in _MESSAGES and item.wire_type != LENGTH:
            raise malformed("a number in the place of a message", item.tag)
        if item.number == MODEL_METADATA and item.end - item.start > _LONGEST_METADATA:
            size = f"{(item.end - item.start) >> 20} MiB"
            raise InputError("input.metadata", f"an entry of metadata_props takes {size}", hint="remove it")
    graphs = [item for item in order if item.number == MODEL_GRAPH]
    if len(graphs) != 1:
        raise malformed("no graph" if not graphs else "more than one graph", 0)
    versions = [item for item in order if item.number == _MODEL_IR_VERSION and item.wire_type == VARINT]
    if len(versions) > 1:
        raise malformed("more than one IR version", versions[1].tag)
    if not versions:
        raise InputError(
            "input.malformed", "not an ONNX model: it has no IR version", hint="is this really an ONNX file?"
        )
    return graphs[0], versions[0]


def check_versions(ir_version: int, opset: dict[str, int], roots: Sequence[Scope]) -> None:
    """Format and operator sets are known; an old model that could not say which gets the first one.

    Raises:
        InputError: `opset.missing`, `opset.unknown`, `ir.unknown`.
    """
    if not opset:
        if ir_version >= _NO_IMPORTS_BEFORE:
            raise InputError("opset.missing", "the model imports no operator set", hint="export it again")
        opset[""] = 1
    newest = onnx.defs.onnx_opset_version()  # attributes are judged by its schemas
    upgrade = f"the installed onnx {onnx.__version__} knows {{}} up to {{}}; upgrade it for a newer one"
    for scope in roots:
        version = scope.version
        if version > newest or version < 0 or (version == 0 and "" in scope.opset):
            hint = upgrade.format("opsets", newest)
            raise InputError("opset.unknown", f"opset {version} is not known", hint=hint)
    if not 1 <= ir_version <= onnx.IR_VERSION:
        hint = upgrade.format("versions", onnx.IR_VERSION)
        raise InputError("ir.unknown", f"IR version {ir_version} is not known", hint=hint)


def check_scopes(scopes: Sequence[Scope], caps: Caps) -> list[str]:
    """Every node and every tensor of the model; returns what is odd and does no harm, as warnings.

    Raises:
        InputError: `graph.node`, `graph.name`, `opset.missing`, `tensor.type`, `tensor.payload`, `tensor.size`,
            `extdata.overlap`, `resource.cap`.
    """
    external: list[FileTensor] = []
    unversioned: set[str] = set()
    for scope in scopes:
        _check_names(scope, caps)
        for node in scope.nodes:
            _check_node(node, caps)
            if node.domain not in scope.opset:
                unversioned.add(node.domain)
        for tensor in _tensors(scope):
            check_tensor(tensor, caps)
            if tensor.external is not None:
                external.append(tensor)
    if len({tensor.external.location for tensor in external if tensor.external is not None}) > caps.files:
        raise caps.exceeded("files", "the files of external data are")
    _check_ranges(external)
    return [f"no version of the domain {domain!r} is imported" for domain in sorted(unversioned)]


def _check_names(scope: Scope, caps: Caps) -> None:
    """Every message, report and table carries a name around."""
    require_text(*scope.values)
    if max(map(len, scope.values), default=0) > caps.name_length:
        raise caps.exceeded("name_length", "the characters of the name of a value are", "graph.name")


def _check_node(node: Node, caps: Caps) -> None:
    proto = node.proto
    require_text(proto.name, proto.op_type, proto.domain, proto.overload, *proto.input)
    if not proto.op_type:
        raise InputError("graph.node", f"node {node.label!r} has no operator", hint="the model is damaged")
    if max(len(proto.name), len(proto.op_type), len(proto.domain)) > caps.name_length:
        raise caps.exceeded("name_length", "the characters of the name of a node are", "graph.name")
    if len(proto.input) + len(proto.output) + len(proto.attribute) > caps.parts:
        raise caps.exceeded("parts", f"inputs, outputs and attributes of node {node.label[:80]!r} are")
    if proto.attribute:
        _check_attributes(node)
    if not node.domain and not node.scope.version:
        message = f"node {node.label!r} is a standard operator, and no version of the standard is imported"
        raise InputError("opset.missing", message, hint="export the model again")


def _check_attributes(node: Node) -> None:
    """Each once, and of the type that the standard gives it: a number in the place of a text is no number."""
    attributes = node.proto.attribute
    for attribute in attributes:
        require_text(attribute.name, attribute.ref_attr_name)
    if len(attributes) > 1 and len({attribute.name for attribute in attributes}) != len(attributes):
        raise InputError(
            "graph.node", f"node {node.label!r} has an attribute twice", hint="runtimes disagree which one counts"
        )
    known = {} if node.domain else declared_types(node.op_type, "", node.scope.version)
    for attribute in attributes:
        if attribute.type not in _ATTRIBUTE_TYPES or known.get(attribute.name, attribute.type) != attribute.type:
            raise InputError(
                "graph.node",
                f"the attribute {attribute.name!r} of node {node.label!r} has the wrong type",
                hint="export the model again",
            )


def _tensors(scope: Scope) -> Iterator[FileTensor]:
    for _, tensor in scope.outline.initializers:
        yield tensor
    for node in scope.outline.nodes:
        if node.tensors:
            yield from node.tensors.values()


def check_tensor(tensor: FileTensor, caps: Caps) -> None:
    """Exactly one payload, of the size that shape and type demand.

    Raises:
        InputError: `tensor.type`, `tensor.payload`, `tensor.size`, `resource.cap`.
    """
    if tensor.data_type == TensorProto.STRING:
        _check_text(tensor)
        return
    wanted = dtypes.byte_size(tensor.data_type, tensor.size)
    if wanted is None:
        raise InputError(
            "tensor.type",
            f"tensor {tensor.name!r} has the unknown element type {tensor.data_type}",
            hint="upgrade normfold, or export the model again",
        )
    if wanted > caps.tensor_bytes:
        raise caps.exceeded("tensor_bytes", f"the bytes of tensor {tensor.name[:80]!r} are")
    if tensor.is_segmented:
        return  # a part of a tensor, which nobody writes and normfold does not read
    found = tensor.stored_bytes()
    typed = tensor.typed_entries()
    if typed and (found is not None or tensor.external is not None or len(typed) > 1):
        raise InputError("tensor.payload", f"tensor {tensor.name!r} has two payloads", hint="export the model again")
    if typed:
        _check_typed(tensor, *next(iter(typed.items())))
    elif found is None and tensor.external is None and wanted:
        raise InputError("tensor.size", f"tensor {tensor.name!r} of shape {list(tensor.dims)} has no data")
    elif found is not None and found != wanted:
        raise InputError(
            "tensor.size",
            f"tensor {tensor.name!r} of shape {list(tensor.dims)} needs {wanted} bytes but has {found}",
            hint="the file is damaged; export it again",
        )


def _check_typed(tensor: FileTensor, field: str, count: int) -> None:
    belongs, wanted = dtypes.typed_storage(tensor.data_type, tensor.size)
    if field != belongs:
        raise InputError(
            "tensor.payload",
            f"tensor {tensor.name!r} of type {dtypes.type_name(tensor.data_type)} has its values in {field}",
            hint="export the model again",
        )
    if count != wanted:
        raise InputError(
            "tensor.size",
            f"tensor {tensor.name!r} of shape {list(tensor.dims)} needs {wanted} entries of {field} but has {count}",
            hint="the file is damaged; export it again",
        )


def _check_text(tensor: FileTensor) -> None:
    typed = tensor.typed_entries()
    if tensor.external is not None or tensor.stored_bytes() is not None or typed.keys() - {"string_data"}:
        raise InputError("tensor.payload", f"tensor {tensor.name!r} of strings does not have them in string_data")
    if typed.get("string_data", 0) != tensor.size and not tensor.is_segmented:
        raise InputError("tensor.size", f"tensor {tensor.name!r} of shape {list(tensor.dims)} has not as many strings")


def _check_ranges(tensors: Iterable[FileTensor]) -> None:
    """Tensors share all of their bytes (tied weights) or none: one range inside of another is a forged record."""
    ranges: dict[str, dict[tuple[int, int], str]] = {}
    for tensor in tensors:
        if tensor.external is not None and tensor.nbytes:
            start = tensor.external.offset
            ranges.setdefault(tensor.external.location, {})[start, start + tensor.nbytes] = tensor.name
    for location, found in ranges.items():
        end, before = 0, ""
        for (start, stop), name in sorted(found.items()):
            if start < end:
                raise InputError(
                    "extdata.overlap",
                    f"tensors {before!r} and {name!r} overlap in {location[:80]!r}",
                    hint="the model is damaged; save it again",
                )
            end, before = stop, name
