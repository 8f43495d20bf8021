"""What is decided about the norms of a model: pure data, and the model that results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnx import NodeProto, TensorProto

from normfold.model.graph import Node, Scope
from normfold.model.load import Model
from normfold.norm.recognise import NormSite
from normfold.surgery.norms.layout import TurnEdit
from normfold.surgery.norms.surroundings import Extent
from normfold.surgery.plan import Decision
from normfold.targets.lowering import Lowering

RULE = "NF202"


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
    """

    site: NormSite
    lowering: Lowering
    nodes: tuple[NodeProto, ...]
    constants: tuple[TensorProto, ...]
    gone: tuple[Node, ...]
    extent: Extent
    opset: int

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


@dataclass(frozen=True, slots=True, eq=False)
class NormPlan:
    """The norms of a model.

    Args:
        model: with the edits carried out; the original where there are none.
        edits: those that are.
        decisions: one for every norm that was recognised.
        spoken_for: keys of the nodes that these decisions are about: nothing more needs to be said about them.
        patterns: by key of a node in the inside of a norm that stays as it is spelled, the last node of the norm: runtimes
            fuse it as a whole or not at all.
        deferred: keys of the norms that are decided about in a second step.
    """

    model: Model
    edits: tuple[NormEdit | TurnEdit, ...] = ()
    decisions: tuple[Decision, ...] = ()
    spoken_for: frozenset[str] = frozenset()
    patterns: Mapping[str, Node] = field(default_factory=dict)
    deferred: frozenset[str] = frozenset()


def edit_id(end: Node) -> str:
    """The identifier of an edit of the norm that ends at a node."""
    return f"norm:{end.key}"
