"""Model -> Plan where the model calls functions: what folds across or inside of a call, once the call is inlined.

First everything is inlined, in memory, and planned. Then only those calls are inlined that an edit needs: because it takes
away, changes or crosses a node of the body, or because a weight is computed there. The others stay calls; what folds inside of
a body whoever calls it is folded there, once for all callers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from normfold.model.graph import Node
from normfold.model.inline import Call, Inlined, inline
from normfold.model.load import Model
from normfold.surgery.inlining import applied, closure, in_call, inline_everything, key_in_body, refusals
from normfold.surgery.plan import Decision, Edit, Outcome, Plan
from normfold.surgery.planner import Exclusions, make_plan
from normfold.surgery.signatures import Signatures

if TYPE_CHECKING:
    from normfold.surgery.norms.edits import NormEdit
    from normfold.surgery.norms.layout import TurnEdit

_ROUNDS = 8
_WHY = "something in it folds with what the call passes"


@dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """A plan, and the model that it was made for: the original, or the original with some calls inlined."""

    model: Model
    plan: Plan


def plan_model(model: Model, exclusions: Exclusions, *, aggressive: bool = False) -> Planned:
    """Decide about every norm and affine site of a model, those in functions included.

    Raises:
        InputError: the data of a constant is damaged.
    """
    if not model.functions:
        return Planned(model, make_plan(model, exclusions, aggressive=aggressive))
    everything = inline_everything(model, exclusions)
    return _Chooser(model, exclusions, everything, aggressive=aggressive).run()


def members(edit: Edit) -> list[Node]:
    """The nodes that an edit takes away, changes or crosses."""
    return [*edit.bypassed, *edit.dropped, *(slot.node for slot in edit.slots), *edit.crossed]


def rests_on_inlining(planned: Planned) -> dict[str, str]:
    """Edits that a comparison of regions cannot prove, because both sides start from the inlined call; with the reason.

    Without them nothing stays inlined: should others be left for which a call is, they are named next time.
    """
    if not planned.model.inlined:
        return {}
    plans = [*(stage.plan for stage in planned.plan.earlier), planned.plan]
    within: list[Edit | NormEdit | TurnEdit] = [
        edit for plan in plans for edit in plan.norms if any(n.call is not None for n in edit.rests_on())
    ]
    edits = [(plan, edit) for plan in plans for edit in plan.edits]
    within += [edit for plan, edit in edits if any(n.call is not None for n in (*members(edit), *_makers(plan, edit)))]
    beside = [edit for _, edit in edits if any(call is not None for call in _beside(edit))]
    reason = "a call was inlined for it, which only a comparison of the whole model can confirm"
    return {edit.id: reason for edit in within or beside or planned.plan.all_edits}


class _Chooser:
    def __init__(self, model: Model, exclusions: Exclusions, everything: Inlined, *, aggressive: bool) -> None:
        self.aggressive = aggressive
        self.model = model
        self.exclusions = exclusions
        self.everything = everything
        self.signatures = Signatures(everything)
        self.closed = self._plan(model)
        self.open = self._open_plan() if everything.calls else self.closed
        self.within = {_shape(edit, None) for edit in self.closed.edits}

    def run(self) -> Planned:
        wanted = self._needed(self.open)
        chosen = self._grown(wanted) if wanted else Planned(self.model, self.closed)
        chosen = self._shrunk(chosen, wanted)
        return Planned(chosen.model, replace(chosen.plan, decisions=tuple(self._decisions(chosen))))

    def _plan(self, model: Model) -> Plan:
        return make_plan(model, self.exclusions, self.signatures, aggressive=self.aggressive)

    def _open_plan(self) -> Plan:
        return make_plan(self.everything.model, self.exclusions, aggressive=self.aggressive)

    def _grown(self, wanted: set[str]) -> Planned:
        """With calls inlined until nothing is missing that folds with all of them inlined, or nothing more helps."""
        for _ in range(_ROUNDS):
            planned = self._inlined(wanted)
            done = _bypassed(planned.plan)
            missing = [edit for edit in self.open.edits if not {node.key for node in edit.bypassed} <= done]
            across = [edit for edit in missing if not self._is_within(edit)]
            more = closure(self.everything, (call for edit in across for call in _beside(edit)))
            if more <= wanted:
                break
            wanted |= more
        return planned

    def _shrunk(self, chosen: Planned, wanted: Collection[str]) -> Planned:
        """Without the calls that turned out to take part in nothing."""
        needed = self._needed(chosen.plan)
        if not wanted or needed == set(wanted):
            return chosen
        smaller = self._inlined(needed) if needed else Planned(self.model, self.closed)
        return smaller if _bypassed(smaller.plan) >= self._across(chosen.plan) else chosen

    def _across(self, plan: Plan) -> set[str]:
        return {node.key for edit in plan.edits if not self._is_within(edit) for node in edit.bypassed}

    def _inlined(self, wanted: Collection[str]) -> Planned:
        if len(wanted) == len(self.everything.calls):
            return Planned(self.everything.model, self.open)
        model = inline(self.model, wanted).model
        return Planned(model, self._plan(model))

    # --- which calls an edit needs ---

    def _needed(self, plan: Plan) -> set[str]:
        found: list[str | None] = []
        for edit in plan.edits:
            if not self._is_within(edit):
                found += [node.call for node in members(edit)]
                found += [node.call for node in _makers(plan, edit)]
        return closure(self.everything, found)

    def _is_within(self, edit: Edit) -> bool:
        """Whether an edit in an inlined body is one that is done in the body itself, whoever calls it."""
        calls = {node.call for node in members(edit)}
        call = self.everything.calls.get(next(iter(calls)) or "") if len(calls) == 1 else None
        return call is not None and _shape(edit, call) in self.within

    # --- decisions ---

    def _decisions(self, chosen: Planned) -> Iterator[Decision]:
        reasons = self._reasons(chosen.model)
        for decision in chosen.plan.decisions:
            found = reasons.get(decision.site) if decision.outcome is not Outcome.APPLIED else None
            yield decision if found is None else in_call(decision, *found)
        yield from (applied(call, _WHY) for key, call in self.everything.calls.items() if key in chosen.model.inlined)
        stay = {decision.site for decision in self.closed.decisions if decision.outcome is not Outcome.APPLIED}
        yield from refusals(self.everything, stay)

    def _reasons(self, model: Model) -> dict[str, tuple[Call, Decision]]:
        """Why a site in a body stays in the first of the calls that are left: as a call, the body itself says less."""
        decisions = {decision.site: decision for decision in self.open.decisions}
        inlined = set(model.inlined)
        found: dict[str, tuple[Call, Decision]] = {}
        for scope in self.everything.model.scopes():
            for node in scope.nodes:
                decision = decisions.get(node.key)
                if node.call is None or node.call in inlined or decision is None:
                    continue
                if decision.outcome is not Outcome.APPLIED:
                    found.setdefault(node.body_key, (self.everything.calls[node.call], decision))
        return found


def _bypassed(plan: Plan) -> set[str]:
    return {node.key for edit in plan.edits for node in edit.bypassed}


def _shape(edit: Edit, call: Call | None) -> tuple[frozenset[str], frozenset[tuple[str, int]]]:
    """What an edit takes away and changes, in terms of the body of a function."""
    slots = frozenset((key_in_body(slot.node, call), slot.operand) for slot in edit.slots)
    return frozenset(key_in_body(node, call) for node in edit.bypassed), slots


def _makers(plan: Plan, edit: Edit) -> Iterator[Node]:
    """The nodes that make the constants that an edit reads."""
    touched = [*edit.bypassed, *(slot.node for slot in edit.slots)]
    pending = [value for node in touched for value in node.inputs if value is not None]
    seen: set[int] = set()
    while pending:
        value = pending.pop()
        node = value.producer
        if node is None or id(node) in seen or plan.draft.constants.get(value) is None:
            continue
        seen.add(id(node))
        yield node
        pending += [item for item in node.inputs if item is not None]


def _beside(edit: Edit) -> Iterator[str | None]:
    """The calls of the nodes next to those that an edit concerns."""
    for node in members(edit):
        yield node.call
        for value in node.inputs:
            if value is not None and value.producer is not None:
                yield value.producer.call
        for made in node.outputs:
            yield from (use.node.call for use in (made.uses if made is not None else ()))
