"""What is decided about the norms of a model: pure data, and the model that results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from onnx import NodeProto, TensorProto

from normfold.model.dtypes import is_float
from normfold.model.graph import Node, Scope, Value
from normfold.model.load import Model
from normfold.model.shapes import Shapes
from normfold.norm.recognise import NormSite
from normfold.surgery.norms.layout import TurnEdit
from normfold.surgery.norms.surroundings import Extent
from normfold.surgery.plan import Decision
from normfold.targets.lowering import Lowering

RULE = "NF202"
# What computes the sizes for a Reshape is no longer than this.
_MOST_FED = 64


@dataclass(frozen=True, slots=True, eq=False)
class NormEdit:
    """A norm that is spelled anew.

    Args:
        site: where it is and what it means.
        lowering: what it becomes.
        nodes: the new nodes, under their final names, for `opset`.
        constants: those that they read and the model does not have.
        gone: the nodes that go, those included that only computed sizes for them.
        extent: what it takes with it, and where it stands.
        opset: version of the standard domain that the new nodes are written for.
        shapes: of the model that the norm is in.
    """

    site: NormSite
    lowering: Lowering
    nodes: tuple[NodeProto, ...]
    constants: tuple[TensorProto, ...]
    gone: tuple[Node, ...]
    extent: Extent
    opset: int
    shapes: Shapes

    @property
    def id(self) -> str:
        """Identifier of the edit: what it is excluded by."""
        return edit_id(self.site.end)

    @property
    def scope(self) -> Scope:
        """In which scope it is."""
        return self.site.end.scope

    @property
    def domains(self) -> Mapping[str, int]:
        """Other domains that must be imported, with the version."""
        return self.lowering.domains

    @property
    def label(self) -> str:
        """What people call the norm."""
        return self.site.end.label

    @property
    def keys(self) -> tuple[str, ...]:
        """What is excluded if the edit must go."""
        return (self.id,)

    @property
    def dead(self) -> tuple[Node, ...]:
        """The nodes that something else stands for."""
        return self.extent.dead

    def rests_on(self) -> Iterator[Node]:
        """The nodes that the norm is found by: those that spell it, those that go, and what makes their constants and sizes."""
        yield from {id(node): node for node in (*self.site.nodes, *self.extent.dead, *self.gone)}.values()
        given = {id(value) for value in (self.site.base, *self.site.operands)}
        pending = [value for node in self.site.nodes for value in node.inputs]
        seen = {id(node) for node in self.site.nodes}
        while pending and len(seen) < _MOST_FED + len(self.site.nodes):
            value = pending.pop()
            node = None if value is None or id(value) in given else value.producer
            if value is None or node is None or id(node) in seen or not self._is_small(value):
                continue
            seen.add(id(node))
            yield node
            pending += node.inputs

    def _is_small(self, value: Value) -> bool:
        """Whether a value is a constant or a number, and no data."""
        kind, dims = self.shapes.data_type(value), self.shapes.dims(value)
        is_number = (kind is not None and not is_float(kind)) or (dims is not None and all(d == 1 for d in dims))
        return is_number or self.shapes.constants.get(value) is not None


@dataclass(frozen=True, slots=True, eq=False)
class NormPlan:
    """The norms of a model.

    Args:
        model: with the edits carried out; the original where there are none.
        edits: those that are.
        decisions: one for every norm that was recognised.
        spoken_for: by key of a node that these decisions are about, so that nothing more needs to be said about it, the
            site of the decision.
        patterns: by key of a node in the inside of a norm that stays as it is spelled, the last node of the norm: runtimes
            fuse it as a whole or not at all.
        deferred: keys of the norms that are decided about in a second step.
    """

    model: Model
    edits: tuple[NormEdit | TurnEdit, ...] = ()
    decisions: tuple[Decision, ...] = ()
    spoken_for: Mapping[str, str] = field(default_factory=dict)
    patterns: Mapping[str, Node] = field(default_factory=dict)
    deferred: frozenset[str] = frozenset()


def edit_id(end: Node) -> str:
    """The identifier of an edit of the norm that ends at a node."""
    return f"norm:{end.key}"
