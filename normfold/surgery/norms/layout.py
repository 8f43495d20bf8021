"""GroupNorms whose kernel wants its channels last: they are turned together with the operators around them, or not at all.

This is a step of its own behind the others, because it is decided for a whole scope at once: a norm that works channels-last
pays only where its Transposes cancel with those of its neighbours.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from onnx import NodeProto, TensorProto, helper

from normfold.model.graph import Node, Scope, Value
from normfold.model.rewrite import Names, Rewrite, sweep
from normfold.model.shapes import Shapes
from normfold.model.tensors import NewTensor
from normfold.norm.recognise import NormSite
from normfold.surgery.layout import GroupNorm, LayoutPlan, candidate, plan_layout
from normfold.surgery.norms.emit import tensor_of
from normfold.surgery.norms.surroundings import Around, Extent, extent_of
from normfold.targets.lowering import Choice, Given, Lowering, Op, Rejected


@dataclass(frozen=True, slots=True, eq=False)
class TurnEdit:
    """Norms of one scope, and the operators around them, that work channels-last.

    Args:
        scope: in which they are.
        sites: the norms.
        before: the nodes that change or go.
        after: the nodes that stand there then.
        constants: those that they read and the model does not have.
        opset: version of the standard domain.
        domains: other domains, with the version.
        rewrite: the same as a change of the scope.
        shapes: of the model that they are in.
    """

    scope: Scope
    sites: tuple[NormSite, ...]
    before: tuple[Node, ...]
    after: tuple[NodeProto, ...]
    constants: tuple[TensorProto, ...]
    opset: int
    domains: Mapping[str, int]
    rewrite: Rewrite
    shapes: Shapes

    @property
    def id(self) -> str:
        """Identifier of the edit: what it is excluded by."""
        return turn_id(self.scope)

    @property
    def label(self) -> str:
        """What people call it: its first norm."""
        return self.sites[0].end.label

    @property
    def keys(self) -> tuple[str, ...]:
        """What is excluded if the edit must go."""
        return (self.id,)

    @property
    def dead(self) -> tuple[Node, ...]:
        """The nodes that something else stands for."""
        return self.before

    def rests_on(self) -> tuple[Node, ...]:
        """The nodes that change or go."""
        return self.before


def turn_id(scope: Scope) -> str:
    """The identifier of the turned part of a scope."""
    return f"layout:{scope.path}"


@dataclass(slots=True)
class Turner:
    """Finds the norms of a scope that can work channels-last, and turns those that pay.

    Args:
        shapes, names: of the model.
        candidates: what was offered, by key of the norm.
        rejected: why candidates were not turned.
    """

    shapes: Shapes
    names: Names
    candidates: dict[str, tuple[NormSite, Lowering, GroupNorm]] = field(default_factory=dict)
    rejected: dict[str, Rejected] = field(default_factory=dict)

    def offer(self, site: NormSite, around: Around, choice: Choice) -> bool:
        """Take note of a norm for which there is such a kernel; whether there is one."""
        for lowering in choice.lowerings:
            if not lowering.channels_last:
                continue
            extent = extent_of(site, around, lowering)
            x = _added_to(site, around) if lowering.takes_embedding else site.base
            found = None if x is None else candidate(lowering, x, extent.output, _gone(extent, lowering, x))
            if found is not None:
                self.candidates[site.end.key] = site, lowering, found
                return True
        return False

    def turn(self, excluded: Collection[str]) -> list[TurnEdit]:
        """What becomes of the scopes; a norm that is in none of the edits takes its second choice."""
        scopes: dict[int, Scope] = {id(site.end.scope): site.end.scope for site, _, _ in self.candidates.values()}
        edits: list[TurnEdit] = []
        for scope in scopes.values():
            if turn_id(scope) in excluded:
                continue
            norms = {key: norm for key, (site, _, norm) in self.candidates.items() if site.end.scope is scope}
            plan = plan_layout(scope, self.shapes.constants, self.shapes, norms, self.names.fresh)
            self.rejected |= plan.rejected
            if plan.norms:
                edits.append(self._edit(scope, plan))
        return edits

    def _edit(self, scope: Scope, plan: LayoutPlan) -> TurnEdit:
        sites = [self.candidates[key][0] for key in plan.norms]
        change, after = Rewrite(), dict[int, list[NodeProto]]()
        before = {id(node): node for node in (*plan.replaced, *plan.dropped)}
        for key, ops in plan.norms.items():
            site, _, norm = self.candidates[key]
            before |= {id(node): node for node in norm.nodes}
            change.nodes |= {node.index: [] for node in norm.nodes}
            place = norm.y.producer
            assert place is not None
            change.nodes[place.index] = [self._proto(op, f"{site.end.label}/{op.op_type}") for op in ops]
        for node, op in plan.replaced.items():
            change.nodes[node.index] = [self._proto(op, node.proto.name or node.label, keep=bool(node.proto.name))]
        change.nodes |= {node.index: [] for node in plan.dropped}
        for item in plan.inserted:
            beside = change.behind if item.behind else change.front
            proto = self._proto(item.op, f"{item.node.label}/Transpose")
            beside.setdefault(item.node.index, []).append(proto)
        for index in sorted({*change.nodes, *change.front, *change.behind}):
            after[index] = [*change.front.get(index, ()), *change.nodes.get(index, ()), *change.behind.get(index, ())]
        change.constants = [tensor_of(c, c.name) for c in plan.constants] + [_stored(t) for t in plan.tensors]
        made = {name for nodes in after.values() for node in nodes for name in node.output}
        lost = {value.name for node in before.values() for value in node.outputs if value is not None}
        change.forgotten = (lost | set(plan.gone)) - made
        protos = tuple(node for nodes in after.values() for node in nodes)
        return TurnEdit(
            scope, tuple(sites), tuple(before.values()), protos, tuple(change.constants), scope.version, plan.domains, change,
            self.shapes,
        )  # fmt: skip

    def _proto(self, op: Op, name: str, *, keep: bool = False) -> NodeProto:
        return helper.make_node(
            op.op_type,
            [str(n) for n in op.inputs],
            [str(n) for n in op.outputs],
            name=name if keep else self.names.fresh(name),
            domain=op.domain or None,
            **op.attributes,
        )


def _gone(extent: Extent, lowering: Lowering, x: Value) -> frozenset[Node]:
    """The nodes that go, those included that only compute sizes for them: they ask for no layout."""
    read = {x.name, *(str(name) for op in lowering.nodes for name in op.inputs if isinstance(name, Given))}
    scope = extent.place.scope
    return frozenset(node for node in sweep(extent.dead, read) if node.scope is scope)


def _added_to(site: NormSite, around: Around) -> Value | None:
    """The image to which an embedding is added in front of a norm."""
    name = around.meaning.embedded
    return None if name is None else site.end.scope.lookup(name)


def _stored(tensor: NewTensor) -> TensorProto:
    data = b"".join(bytes(block) for block in tensor.blocks())
    return TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type, raw_data=data)
