"""What will be done, and what was decided about every site: pure data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from normfold.affine.algebra import Affine
from normfold.affine.draft import Draft, Slot
from normfold.model.graph import Node, Value
from normfold.model.patch import Candidate

if TYPE_CHECKING:
    from normfold.surgery.norms.edits import NormEdit
    from normfold.surgery.norms.layout import TurnEdit


class Outcome(StrEnum):
    """How a site ended."""

    APPLIED = "applied"
    REFUSED = "refused"
    KEPT = "kept"


class Exactness(StrEnum):
    """How a result that was changed compares with the original in real arithmetic.

    All three are equal in real arithmetic; `EXACT` in floating point too (nothing but data movement and powers of two),
    `ROUNDED` up to one rounding of each new parameter, and `OPT_IN` is rounded and was made only because it was asked for.
    """

    EXACT = "exact"
    ROUNDED = "rounded"
    OPT_IN = "opt-in"


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
        exactness: what the change does to the numbers; None where nothing was changed.
        bound: largest relative rounding error of a new parameter, 0 if exact; None where nothing was changed.
        notes: what is remarkable about the site: dead channels, huge gains.
    """

    site: str
    rule: str
    code: str
    outcome: Outcome
    op_type: str
    node: str
    nodes: tuple[str, ...]
    message: str
    exactness: Exactness | None = None
    bound: float | None = None
    notes: tuple[str, ...] = ()


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
        exactness: what it does to the numbers.
        bound: largest relative rounding error of a new parameter.
        notes: what is remarkable about it.
    """

    id: str
    bypassed: tuple[Node, ...]
    slots: tuple[Slot, ...]
    crossed: tuple[Node, ...] = ()
    dropped: tuple[Node, ...] = ()
    is_merge: bool = False
    exactness: Exactness = Exactness.ROUNDED
    bound: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """What people call the place."""
        return self.bypassed[0].label

    @property
    def keys(self) -> tuple[str, ...]:
        """What is excluded if the edit must go."""
        return tuple(node.key for node in self.bypassed)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Everything that `apply` needs, and everything that the report says about it.

    Args:
        edits: in the order in which they were found.
        decisions: one for every site, in execution order.
        slots: every slot that took something, with the composed affine.
        draft: the planner's view after the last edit.
        frozen: initializers that are no graph inputs any more.
        norms: norms that are spelled anew in the model that the plan is for.
        earlier: what was planned before, where this plan starts from what that makes; its decisions are among these.
    """

    edits: tuple[Edit, ...]
    decisions: tuple[Decision, ...]
    slots: tuple[tuple[Slot, Affine], ...]
    draft: Draft
    frozen: tuple[str, ...] = ()
    norms: tuple[NormEdit | TurnEdit, ...] = ()
    earlier: tuple[Stage, ...] = ()

    @property
    def all_edits(self) -> tuple[Edit | NormEdit | TurnEdit, ...]:
        """Everything that can be left out."""
        return (*(edit for stage in self.earlier for edit in stage.plan.all_edits), *self.norms, *self.edits)

    @property
    def is_empty(self) -> bool:
        """Whether nothing will be changed."""
        return not self.edits and not self.frozen and not self.norms

    def replaced(self, value: Value) -> Value:
        """What stands where `value` stood."""
        return self.draft.root(value)


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """A plan that was carried out, though not written, so that another one could start from the result.

    Args:
        plan: what was decided.
        candidate: what it makes.
    """

    plan: Plan
    candidate: Candidate


def stages(plan: Plan, candidate: Candidate) -> tuple[Stage, ...]:
    """A plan and those before it, each with what it makes, in the order in which they are carried out.

    Args:
        plan: the last one.
        candidate: what it makes.
    """
    return (*plan.earlier, Stage(plan, candidate))
