"""The planner's step for structural merges: sums of parallel branches, and linear operators in a row.

It runs when no affine folds any more, because only then every branch has taken what it can. Rows come first, in execution
order, because a row may be a branch. Sums are taken from the outputs, so that the largest tree is tried first and its
parts only if it stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from normfold.affine.draft import OUTPUT, Draft, Merge, Slot
from normfold.affine.merge.branch import SUMS, WEIGHTED, is_sum
from normfold.affine.merge.branches import merge_branches
from normfold.affine.merge.rows import merge_rows
from normfold.affine.reasons import Refused
from normfold.errors import InputError
from normfold.model.graph import Node
from normfold.model.load import Model
from normfold.model.tensors import Unreadable
from normfold.surgery.plan import Decision, Edit, Outcome

if TYPE_CHECKING:
    from normfold.surgery.planner import Exclusions

BRANCHES, ROWS = "NF103", "NF104"
_KEPT = frozenset(("cost", "user-keep"))

_SHOWN = 4

Finder = Callable[..., Merge | None]


class Merger:
    """Finds merges in a draft and commits them; remembers why a candidate stays."""

    def __init__(self, model: Model, draft: Draft, exclusions: Exclusions, *, aggressive: bool) -> None:
        self.draft = draft
        self.exclusions = exclusions
        self.aggressive = aggressive
        nodes = [node for scope in model.scopes() for node in scope.nodes]
        self._sums = [node for node in nodes if is_sum(draft, node)][::-1]
        self._seconds = [node for node in nodes if not node.domain and node.op_type in WEIGHTED]
        self._decisions: dict[str, Decision] = {}

    def step(self) -> Iterator[Edit]:
        """Merge what can be merged now."""
        for rule, nodes, find in ((ROWS, self._seconds, merge_rows), (BRANCHES, self._sums, merge_branches)):
            for node in nodes:
                if not self.draft.is_gone(node):
                    yield from self._attempt(rule, node, find)

    def decision(self, node: Node) -> Decision | None:
        """What was decided about a node, None if it is no candidate."""
        found = self._decisions.get(node.key)
        gone = self.draft.is_gone(node) and found is not None and found.outcome is not Outcome.APPLIED
        return None if gone else found  # a candidate may go with another one

    def _attempt(self, rule: str, node: Node, find: Finder) -> Iterator[Edit]:
        self._decisions.pop(node.key, None)
        try:
            merge = find(self.draft, node, self._may_go, aggressive=self.aggressive)
            if merge is None:
                return
            excluded = self.exclusions.reason(node, rule)
            if excluded is not None:
                raise excluded
        except (Refused, InputError, Unreadable) as problem:
            self._decisions[node.key] = _refused(rule, node, _as_refusal(problem, node))
            return
        self.draft.merge(merge)
        self._decisions[node.key] = _applied(rule, node, merge)
        yield Edit(node.key, (node,), (Slot(merge.kept, OUTPUT),), merge.crossed, merge.dropped, is_merge=True)

    def _may_go(self, node: Node) -> bool:
        return self.exclusions.reason(node) is None


def _as_refusal(problem: Refused | InputError | Unreadable, node: Node) -> Refused:
    if isinstance(problem, Refused):
        return problem
    if isinstance(problem, InputError):
        return Refused("external-data", problem.message, node.label)
    return Refused("ill-formed", f"a parameter of {node.label!r} has {problem}", node.label)


def _applied(rule: str, node: Node, merge: Merge) -> Decision:
    kept = merge.kept
    others = [other for other in merge.dropped if other.op_type not in SUMS]
    shown = [f"{other.op_type} {other.label!r}" for other in others[:_SHOWN]]
    shown += [f"{len(others) - _SHOWN} more"] if len(others) > _SHOWN else []
    company = f" with {', '.join(shown)}" if shown else ""
    growth = f"; {merge.growth}" if merge.growth else ""
    message = f"merged into {kept.op_type} {kept.label!r}{company}{growth}"
    names = tuple(dict.fromkeys((node.label, kept.label, *(other.label for other in others))))
    return Decision(node.key, rule, rule, Outcome.APPLIED, node.op_type, node.label, names, message)


def _refused(rule: str, node: Node, reason: Refused) -> Decision:
    outcome = Outcome.KEPT if reason.key in _KEPT else Outcome.REFUSED
    nodes = (node.label, reason.blocker) if reason.blocker and reason.blocker != node.label else (node.label,)
    return Decision(node.key, rule, f"{rule}.{reason.key}", outcome, node.op_type, node.label, nodes, reason.message)
