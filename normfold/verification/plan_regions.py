"""Plan -> regions: what every edit touches, before and after, each as a small model that runs by itself.

A region holds the nodes that go, the operators whose weights change, and everything in between. Edits that share a
node share a region. Its inputs are the data that flows in; every parameter is a constant inside, before as the file has
it, after as the candidate will.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnx import NodeProto

from normfold.affine.draft import sees_elements
from normfold.model.constants import Dequantised
from normfold.model.extract import Port, constant, cut_out
from normfold.model.graph import Node, Scope, Use, Value
from normfold.model.patch import Candidate, ScopePatch
from normfold.model.tensors import NewTensor
from normfold.surgery.plan import Edit, Plan

from .boundary import boundary
from .verdicts import Region

_FLOAT = 1
_SHAPE_INPUT = {"Reshape": 1, "Expand": 1, "Tile": 1, "Resize": 3}
_SHAPE_ARITHMETIC = (
    "Identity", "Cast", "Gather", "Slice", "Concat", "Squeeze", "Unsqueeze", "Add", "Sub", "Mul", "Div", "Min", "Max",
)  # fmt: skip


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
    return [*edit.bypassed, *edit.dropped, *edit.crossed, *(slot.node for slot in edit.slots)]


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
        self.gone = {id(node) for edit in edits for node in (*edit.bypassed, *edit.dropped)}
        self.scope: Scope = edits[0].bypassed[0].scope
        self.patch = candidate.scopes.get(id(self.scope)) or ScopePatch()
        self.sizing: list[Node] = []
        self._take_in_scales()
        self._close()
        self.sizing = self._sizing()

    def region(self) -> Region:
        """Both sides with the same interface."""
        flowing, constants = boundary((*self.nodes, *self.sizing), self.draft.constants)
        inputs, entries_before, entries_after = self._entries(flowing)
        outputs = [self._port(value) for value in self._outputs()]
        ir_version = self.candidate.model.ir_version
        old = [constant(name, source) for name, source in constants.items()]
        sizing_before = [self._before(node) for node in self.sizing]
        nodes = [*entries_before, *sizing_before, *(self._before(node) for node in self.nodes)]
        before = cut_out(nodes, old, inputs, outputs, self._imports(nodes), ir_version)
        new = self._new_tensors()
        kept = [tensor for tensor in old if tensor.name not in {t.name for t in new}]
        nodes = [*entries_after, *(self._patched(node) for node in self.sizing), *self._after()]
        nodes += self._renamed(outputs, {name for node in nodes for name in node.output})
        imports = self._imports(nodes)
        after = cut_out(nodes, kept + [constant(t.name, t) for t in new], inputs, outputs, imports, ir_version)
        return Region(tuple(edit.id for edit in self.edits), before, after)

    def _imports(self, nodes: list[NodeProto]) -> dict[str, int]:
        """The version of each domain that the nodes use; one that only the candidate uses is at its first."""
        used = {"", *(node.domain for node in nodes if node.domain != "ai.onnx")}
        return {domain: self.scope.opset.get(domain, 1) for domain in sorted(used)}

    def _sizing(self) -> list[Node]:
        """Operators outside that compute a shape from dimensions: with them, a Reshape fits whatever sizes are tried."""
        found: dict[int, Node] = {}
        for node in self.nodes:
            slot = _SHAPE_INPUT.get(node.op_type)
            found.update(self._shape_arithmetic(None if slot is None else node.input(slot)))
        return sorted(found.values(), key=lambda node: node.index)

    def _shape_arithmetic(self, value: Value | None) -> dict[int, Node]:
        """What computes a shape, down to where dimensions are asked for; nothing if something else is asked as well."""
        found: dict[int, Node] = {}
        pending = [value]
        while pending:
            current = pending.pop()
            node = None if current is None else current.producer
            if current is None or self.draft.constants.get(current) is not None or id(node) in found:
                continue
            if node is None or id(node) in self.inside or node.scope is not self.scope or node.domain:
                return {}
            found[id(node)] = node
            if node.op_type == "Shape":
                if self._rank_unknown(node.input(0)):
                    return {}
            elif node.op_type in _SHAPE_ARITHMETIC:
                pending += node.inputs
            else:
                return {}
        return found

    def _rank_unknown(self, value: Value | None) -> bool:
        return value is None or self.draft.shapes.rank(value) is None

    def _take_in_scales(self) -> None:
        """The DequantizeLinear of a weight, where it is what changes."""
        changed = {
            id(value.producer): value.producer
            for node in self.nodes
            for value in node.inputs
            if value is not None
            and value.producer is not None
            and isinstance(self.draft.constants.get(value), Dequantised)
            and value.producer.scope is self.scope
            and value.producer.index in self.patch.nodes
        }
        self.inside |= set(changed)
        self.nodes = sorted([*self.nodes, *changed.values()], key=lambda node: node.index)

    def _close(self) -> None:
        """Take in what another edit removes between two nodes of this region: the candidate connects them directly."""
        while True:
            flowing, _ = boundary((*self.nodes, *self.sizing), self.draft.constants)
            between = [v.producer for v in flowing if v.producer is not None and self._is_inside(self.draft.root(v))]
            if not between:
                return
            self.inside |= {id(node) for node in between}
            self.gone |= {id(node) for node in between}
            taken = {id(node): node for node in (*self.nodes, *between)}
            self.nodes = sorted(taken.values(), key=lambda node: node.index)

    def _is_inside(self, value: Value) -> bool:
        return value.producer is not None and id(value.producer) in self.inside

    def _entries(self, flowing: list[Value]) -> tuple[list[Port], list[NodeProto], list[NodeProto]]:
        """One input for each tensor that flows in; where the candidate calls it otherwise, Identities that name it.

        Another edit may have removed an identity in front, so that the candidate reads what stood before it.
        """
        same: dict[str, list[Value]] = {}
        for value in flowing:
            same.setdefault(self._now(value), []).append(value)
        ports: list[Port] = []
        before: list[NodeProto] = []
        after: list[NodeProto] = []
        for now, values in same.items():
            port = self._port(next((v for v in values if v.name == now), values[0]))
            if port.name != now:
                port = Port(f"{now}::input", port.data_type, port.dims)
                after.append(_identity(port.name, now))
            ports.append(port)
            before += [_identity(port.name, value.name) for value in values if value.name != port.name]
        return ports, before, after

    def _outputs(self) -> list[Value]:
        """Values that somebody outside reads; in dead code, those that nobody reads."""
        made = [value for node in self.nodes for value in node.outputs if value is not None]
        seen = [value for value in made if value.is_output or any(self._outside(use) for use in value.uses)]
        if seen:
            return seen
        first = [node.outputs[0] for node in self.nodes if node.outputs]
        return [v for v in first if v is not None and not any(id(use.node) in self.inside for use in v.uses)]

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
            if id(node) not in self.gone and node.index not in self.patch.dropped_nodes:
                result += self.patch.before.get(node.index, [])
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

    def _renamed(self, outputs: list[Port], made: set[str]) -> list[NodeProto]:
        """Where an identity was removed, its readers now read its input: the region shows that as an Identity."""
        values = {value.name: value for node in self.nodes for value in node.outputs if value is not None}
        return [_identity(self._now(values[port.name]), port.name) for port in outputs if port.name not in made]

    def _now(self, value: Value) -> str:
        """What the candidate calls the tensor that a value is or became."""
        root = self.draft.root(value)
        patch = self.candidate.scopes.get(id(root.scope))
        if root.producer is None or patch is None:
            return root.name
        added = patch.after.get(root.producer.index)
        if added:
            return str(added[-1].output[0])
        node = patch.nodes.get(root.producer.index)
        return root.name if node is None or node.outputs is None else node.outputs[root.output_slot]

    def _new_tensors(self) -> list[NewTensor]:
        """The tensors that the patched nodes read."""
        wanted = {name for node in self._after() for name in node.input}
        patch = self.patch
        local = [t for node in self.nodes for t in patch.constants.get(node.index, ())]
        return [t for t in (*patch.replaced.values(), *patch.added, *local) if t.name in wanted]


def _identity(source: str, target: str) -> NodeProto:
    return NodeProto(op_type="Identity", input=[source], output=[target])
