"""The model that a candidate will be, before it is written: what is planned next can start from it.

Its nodes keep their keys, so that what was said about one of them, or is to be left alone, still is the same one. Node 0
that a change puts in front of node 17 is `graph:17<0`, behind it `graph:17>0`. New weights are not computed but when they
are asked for: most are never looked at before they are written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from onnx import AttributeProto, NodeProto, ValueInfoProto

from normfold.model.body import node_outline
from normfold.model.deferred import Deferred
from normfold.model.graph import Node, Scope
from normfold.model.inline import origin_of
from normfold.model.load import Model
from normfold.model.outline import NodeOutline, Origin, ScopeOutline, parse
from normfold.model.patch import Candidate, NodePatch, ScopePatch
from normfold.model.rewrite import Outlines, holds_one_of, remade, with_bodies
from normfold.model.tensors import FileTensor, NewTensor
from normfold.model.wire import Field


def unwritten(candidate: Candidate) -> Model:
    """The model that a candidate will be.

    Args:
        candidate: not changed; it adds no outputs and takes none away.
    """
    taken = {node.key for scope in candidate.model.scopes() for node in scope.nodes}

    def changed(scope: Scope, outlines: Outlines) -> ScopeOutline | None:
        patch = candidate.scopes.get(id(scope))
        if patch is None and not holds_one_of(scope, outlines):
            return None
        return _Builder(candidate.model, scope, patch or ScopePatch(), outlines, taken).outline()

    return dataclasses.replace(remade(candidate.model, changed, {}), frozen=())


@dataclasses.dataclass(slots=True)
class _Builder:
    """The outline of one scope with its patch."""

    model: Model
    scope: Scope
    patch: ScopePatch
    outlines: Outlines
    taken: set[str]  # keys of nodes

    def outline(self) -> ScopeOutline:
        """Nodes in their places, new initializers behind those that stay."""
        outline, kind = self.scope.outline, self.scope.outline.kind
        own = {node.index: node for node in self.scope.nodes}
        order: list[Field] = []
        nodes: list[NodeOutline] = []
        initializers: list[tuple[Field, FileTensor]] = []
        position = count = 0
        for item in outline.order:
            if item.number == kind.node:
                new = list(self._of(own[position]))
                order += [part.field for part in new]
                nodes += new
                position += 1
            elif item.number == kind.initializer and kind.initializer:
                if not self._is_gone(count):
                    order.append(item)
                    initializers.append(outline.initializers[count])
                count += 1
            elif not self._is_undeclared(item):
                order.append(item)
        added = list(self._added())
        return dataclasses.replace(
            outline, order=order, nodes=nodes, initializers=initializers, rebuilt=True, added=added
        )

    # --- initializers and declarations ---

    def _is_gone(self, index: int) -> bool:
        return index in self.patch.replaced or index in self.patch.dropped_initializers

    def _added(self) -> Iterator[FileTensor]:
        """The initializers that the file does not have."""
        first = len(self.scope.outline.initializers)
        older = enumerate(self.scope.outline.added, start=first)
        yield from (tensor for index, tensor in older if not self._is_gone(index))
        yield from map(self._deferred, (*self.patch.replaced.values(), *self.patch.added))

    def _deferred(self, tensor: NewTensor) -> Deferred:
        return Deferred(tensor, self.model.files)

    def _is_undeclared(self, item: Field) -> bool:
        """Whether an input, or what is declared about a value, goes."""
        kind = self.scope.outline.kind
        names = {kind.input: self.patch.dropped_inputs, kind.value_info: self.patch.dropped_info}.get(item.number)
        if not names:
            return False
        return parse(ValueInfoProto, bytes(self.scope.outline.buffer[item.start : item.end])).name in names

    # --- nodes ---

    def _of(self, node: Node) -> Iterator[NodeOutline]:
        """What stands where a node stood, and beside it."""
        patch = self.patch
        for tensor in patch.constants.get(node.index, ()):
            yield self._constant(tensor, node)
        for new in patch.before.get(node.index, ()):
            yield self._made(new, node, "<")
        if node.index not in patch.dropped_nodes:
            yield self._kept(node)
        for new in patch.after.get(node.index, ()):
            yield self._made(new, node, ">")

    def _kept(self, node: Node) -> NodeOutline:
        patch = self.patch.nodes.get(node.index)
        if patch is None:
            return with_bodies(node, node.outline, self.outlines)
        held = node.outline.tensors.get(0)
        if isinstance(held, Deferred):  # nothing of it stands in a buffer
            names = patch.outputs or node.proto.output
            return self._with_key(self._holding(dataclasses.replace(held.new, name=names[0])), origin_of(node))
        whole = parse(NodeProto, bytes(node.outline.buffer[node.outline.field.start : node.outline.field.end]))
        new = node_outline(_patched(whole, patch), self.scope, self.model.files)
        return with_bodies(node, new, self.outlines)

    def _made(self, proto: NodeProto, beside: Node, side: str) -> NodeOutline:
        return self._with_key(node_outline(proto, self.scope, self.model.files), self._origin(beside, side))

    def _constant(self, tensor: NewTensor, beside: Node) -> NodeOutline:
        return self._with_key(self._holding(tensor), self._origin(beside, ":constant"))

    def _holding(self, tensor: NewTensor) -> NodeOutline:
        """A `Constant` whose value is not computed yet."""
        value = AttributeProto(name="value", type=AttributeProto.TENSOR)
        value.t.data_type = tensor.data_type
        value.t.dims.extend(tensor.dims)
        proto = NodeProto(op_type="Constant", output=[tensor.name], attribute=[value])
        outline = node_outline(proto, self.scope, self.model.files)
        outline.tensors[0] = self._deferred(tensor)
        return outline

    def _origin(self, beside: Node, side: str) -> Origin:
        """The key of a node that is put beside another; the inlined call is the same."""
        number = 0
        while (key := f"{beside.key}{side}{number}") in self.taken:
            number += 1
        self.taken.add(key)
        return Origin(key, key, origin_of(beside).call)

    def _with_key(self, outline: NodeOutline, origin: Origin) -> NodeOutline:
        outline.origin = origin
        return outline


def _patched(proto: NodeProto, patch: NodePatch) -> NodeProto:
    for names, new in ((proto.input, patch.inputs), (proto.output, patch.outputs)):
        if new is not None:
            names[:] = new
    proto.op_type = patch.op_type or proto.op_type
    kept = [attribute for attribute in proto.attribute if attribute.name not in patch.attributes]
    added = [attribute for attribute in patch.attributes.values() if attribute is not None]
    del proto.attribute[:]
    proto.attribute.extend([*kept, *added])
    return proto
