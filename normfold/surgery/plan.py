"""What will be done, and what was decided about every site: pure data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from normfold.affine.algebra import Affine
from normfold.affine.draft import Draft, Slot
from normfold.model.graph import Node, Value


class Outcome(StrEnum):
    """How a site ended."""

    APPLIED = "applied"
    REFUSED = "refused"
    KEPT = "kept"


@dataclass(frozen=True, slots=True)
class Decision:
    """One norm or affine site and what became of it.

    Args:
        site: stable identifier of the site (scope path and position of the node).
        rule: code of the rule, `NF101`.
        code: `NF101` where it was applied, else `NF101.<key>`.
        outcome: applied, refused (a condition is not met), or kept (nothing would be gained).
        op_type: operator of the site.
        node: what people call the node.
        nodes: labels of the nodes concerned: the site, what took it, what stood in the way.
        message: one line.
    """

    site: str
    rule: str
    code: str
    outcome: Outcome
    op_type: str
    node: str
    nodes: tuple[str, ...]
    message: str


@dataclass(frozen=True, slots=True, eq=False)
class Edit:
    """One independent change: nodes that are bypassed, and slots that take their affine.

    Args:
        id: the site of its first node.
        bypassed: the affine nodes that go; of a merge, the sum or the second operator.
        slots: the slots that took their affine, empty if it was the identity.
        crossed: the nodes in between.
        dropped: the other nodes that go with a merge.
        is_merge: whether linear operators become one.
    """

    id: str
    bypassed: tuple[Node, ...]
    slots: tuple[Slot, ...]
    crossed: tuple[Node, ...] = ()
    dropped: tuple[Node, ...] = ()
    is_merge: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Everything that `apply` needs, and everything that the report says about it.

    Args:
        edits: in the order in which they were found.
        decisions: one for every site, in execution order.
        slots: every slot that took something, with the composed affine.
        draft: the planner's view after the last edit.
    """

    edits: tuple[Edit, ...]
    decisions: tuple[Decision, ...]
    slots: tuple[tuple[Slot, Affine], ...]
    draft: Draft
    frozen: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing will be changed."""
        return not self.edits and not self.frozen

    def replaced(self, value: Value) -> Value:
        """What stands where `value` stood."""
        return self.draft.root(value)
