"""Plan -> regions: what every edit touches, before and after, each as a small model that runs by itself.

A region holds the affine nodes that go, the operators whose weights change, and everything in between. Edits that share a
node share a region. Its inputs are the data that flows in; every parameter is a constant inside, before as the file has
it, after as the candidate will.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnx import NodeProto

from normfold.affine.draft import sees_elements
from normfold.model.extract import Port, constant, cut_out
from normfold.model.graph import Node, Scope, Use, Value
from normfold.model.patch import Candidate, ScopePatch
from normfold.model.tensors import NewTensor, TensorSource
from normfold.surgery.plan import Edit, Plan

from .verdicts import Region

_FLOAT = 1


class RegionList:
    """The regions of a plan, built one by one while they are read."""

    def __init__(self, plan: Plan, candidate: Candidate) -> None:
        self._groups = list(_groups(plan.edits))
        self._plan = plan
        self._candidate = candidate

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[Region]:
        for edits in self._groups:
            yield _Cutter(self._plan, self._candidate, edits).region()


def _members(edit: Edit) -> list[Node]:
    return [*edit.bypassed, *edit.crossed, *(slot.node for slot in edit.slots)]


def _groups(edits: tuple[Edit, ...]) -> list[list[Edit]]:
    """Edits that touch a common node, together (union-find over nodes)."""
    parent: dict[int, int] = {}

    def find(item: int) -> int:
        while parent.setdefault(item, item) != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for edit in edits:
        first, *others = (id(node) for node in _members(edit))
        for other in others:
            parent[find(other)] = find(first)
    groups: dict[int, list[Edit]] = {}
    for edit in edits:
        groups.setdefault(find(id(edit.bypassed[0])), []).append(edit)
    return list(groups.values())


class _Cutter:
    def __init__(self, plan: Plan, candidate: Candidate, edits: list[Edit]) -> None:
        self.draft = plan.draft
        self.candidate = candidate
        self.edits = edits
        members = {id(node): node for edit in edits for node in _members(edit)}
        self.nodes = sorted(members.values(), key=lambda node: node.index)
        self.inside = set(members)
        self.gone = {id(node) for edit in edits for node in edit.bypassed}
        self.scope: Scope = edits[0].bypassed[0].scope
        self.patch = candidate.scopes.get(id(self.scope)) or ScopePatch()

    def region(self) -> Region:
        """Both sides with the same interface."""
        flowing, constants = self._boundary()
        inputs = [self._port(value) for value in flowing]
        outputs = [self._port(value) for value in self._outputs()]
        version = {domain: number for domain, number in self.scope.opset.items() if domain == ""}
        ir_version = self.candidate.model.ir_version
        old = [constant(name, source) for name, source in constants.items()]
        before = cut_out([self._before(node) for node in self.nodes], old, inputs, outputs, version, ir_version)
        new = self._new_tensors()
        kept = [tensor for tensor in old if tensor.name not in {t.name for t in new}]
        nodes = [*self._after(), *self._renamed(outputs)]
        after = cut_out(nodes, kept + [constant(t.name, t) for t in new], inputs, outputs, version, ir_version)
        return Region(tuple(edit.id for edit in self.edits), before, after)

    def _boundary(self) -> tuple[list[Value], dict[str, TensorSource]]:
        """Values that flow in, and constants by name."""
        flowing: dict[str, Value] = {}
        constants: dict[str, TensorSource] = {}
        for node in self.nodes:
            for value in node.inputs:
                if value is None or (value.producer is not None and id(value.producer) in self.inside):
                    continue
                source = self.draft.constants.get(value)
                if source is None:
                    flowing[value.name] = value
                else:
                    constants[value.name] = source
        return list(flowing.values()), constants

    def _outputs(self) -> list[Value]:
        """Values that somebody outside reads."""
        return [
            value
            for node in self.nodes
            for value in node.outputs
            if value is not None and (value.is_output or any(self._outside(use) for use in value.uses))
        ]

    def _outside(self, use: Use) -> bool:
        return id(use.node) not in self.inside and sees_elements(use)

    def _port(self, value: Value) -> Port:
        kind = self.draft.shapes.data_type(value)
        return Port(value.name, kind or self._weight_type(), self.draft.shapes.dims(value))

    def _weight_type(self) -> int:
        for edit in self.edits:
            for slot in edit.slots:
                for value in slot.node.inputs:
                    source = self.draft.constants.get(value)
                    if source is not None:
                        return source.data_type
        return _FLOAT

    def _before(self, node: Node) -> NodeProto:
        return node.proto

    def _after(self) -> list[NodeProto]:
        """The nodes that stay, as the candidate has them, and those that it adds."""
        result: list[NodeProto] = []
        for node in self.nodes:
            if id(node) not in self.gone:
                result.append(self._patched(node))
                result += self.patch.after.get(node.index, [])
        return result

    def _patched(self, node: Node) -> NodeProto:
        patch = self.patch.nodes.get(node.index)
        proto = NodeProto()
        proto.CopyFrom(node.proto)
        if patch is None:
            return proto
        for target, names in ((proto.input, patch.inputs), (proto.output, patch.outputs)):
            if names is not None:
                del target[:]
                target.extend(names)
        proto.op_type = patch.op_type or proto.op_type
        kept = [attribute for attribute in proto.attribute if attribute.name not in patch.attributes]
        new = [attribute for attribute in patch.attributes.values() if attribute is not None]
        del proto.attribute[:]
        proto.attribute.extend([*kept, *new])
        return proto

    def _renamed(self, outputs: list[Port]) -> list[NodeProto]:
        """Where an identity was removed, its readers now read its input: the region shows that as an Identity."""
        made = {name for node in self._after() for name in node.output}
        values = {value.name: value for node in self.nodes for value in node.outputs if value is not None}
        return [
            NodeProto(op_type="Identity", input=[self._now(values[port.name])], output=[port.name])
            for port in outputs
            if port.name not in made
        ]

    def _now(self, value: Value) -> str:
        root = self.draft.root(value)
        patch = (
            self.patch.nodes.get(root.producer.index)
            if root.producer is not None and id(root.producer) in self.inside
            else None
        )
        return patch.outputs[root.output_slot] if patch is not None and patch.outputs is not None else root.name

    def _new_tensors(self) -> list[NewTensor]:
        """The tensors that the patched nodes read."""
        wanted = {name for node in self._after() for name in node.input}
        patch = self.patch
        local = [t for node in self.nodes for t in patch.constants.get(node.index, ())]
        return [t for t in (*patch.replaced.values(), *patch.added, *local) if t.name in wanted]
