"""Model -> NormPlan where the model calls functions: what is a norm only together with what calls pass, or what follows.

First everything is inlined, in memory, and planned. Then only those calls are inlined that a norm needs: because a node of the
body is part of it, or makes a constant or a size that it reads. A norm that is spelled anew in the body itself, once for all
callers, needs none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace

from normfold.model.graph import Node
from normfold.model.inline import Inlined, inline
from normfold.model.load import Model
from normfold.norm.seeds import is_seed
from normfold.surgery.inlining import applied, closure, in_call, inline_everything, key_in_body, refusals
from normfold.surgery.norms.edits import RULE, NormEdit, NormPlan
from normfold.surgery.norms.layout import TurnEdit
from normfold.surgery.norms.settled import plan_settled
from normfold.surgery.plan import Decision, Outcome
from normfold.surgery.planner import Exclusions
from normfold.surgery.signatures import Signatures
from normfold.targets.names import Target

_WHY = "a norm is spelled anew with what the call passes or with what stands around it"


def plan_norms_across(
    model: Model, exclusions: Exclusions, target: Target, *, threads: int | None = None, precise: bool = False
) -> NormPlan:
    """Decide about every norm of a model, those included whose parts functions and their callers share.

    Args:
        model: not changed.
        exclusions: what must be left alone.
        target: where the model will run.
        threads: on how many threads, None for the runtime's default.
        precise: rule out operators whose statistics lose digits where the mean dwarfs the deviation.

    Raises:
        InputError: the data of a constant is damaged.
    """
    if not model.functions or exclusions.excludes(RULE):
        return plan_settled(model, exclusions, target, threads=threads, precise=precise)
    return _Chooser(model, exclusions, target, threads, precise, inline_everything(model, exclusions)).run()


@dataclass(slots=True)
class _Chooser:
    model: Model
    exclusions: Exclusions
    target: Target
    threads: int | None
    precise: bool
    everything: Inlined
    signatures: Signatures = field(init=False)
    closed: NormPlan = field(init=False)  # with every call left as it is
    open: NormPlan = field(init=False)  # with every call inlined
    within: set[frozenset[str]] = field(init=False)  # what the edits of the first take away

    def __post_init__(self) -> None:
        self.signatures = Signatures(self.everything)
        self.closed = self._plan(self.model)
        self.open = self._plan(self.everything.model) if self.everything.calls else self.closed
        self.within = {frozenset(node.key for node in edit.dead) for edit in self.closed.edits}

    def run(self) -> NormPlan:
        wanted, chosen = set(self.everything.calls), self.open
        while wanted and (needed := self._needed(chosen)) != wanted:  # ends, because calls only become fewer
            wanted = needed & wanted
            chosen = self._plan(inline(self.model, wanted).model) if wanted else self.closed
        decisions, spoken = [*chosen.decisions], dict(chosen.spoken_for)
        for decision, keys in self._in_calls(chosen, wanted):
            decisions.append(decision)
            spoken |= dict.fromkeys(keys, decision.site)
        decisions += [applied(call, _WHY) for key, call in self.everything.calls.items() if key in wanted]
        decisions += refusals(self.everything, self._unexplained())
        patterns = {**self.open.patterns, **chosen.patterns}
        return replace(chosen, decisions=tuple(decisions), spoken_for=spoken, patterns=patterns)

    def _plan(self, model: Model) -> NormPlan:
        hints = None if model is self.everything.model and self.everything.calls else self.signatures
        return plan_settled(
            model, self.exclusions, self.target, threads=self.threads, precise=self.precise, hints=hints
        )

    def _needed(self, plan: NormPlan) -> set[str]:
        """The calls without which some edit would be missing."""
        edits = [edit for edit in plan.edits if not self._is_within(edit)]
        return closure(self.everything, (node.call for edit in edits for node in edit.rests_on()))

    def _is_within(self, edit: NormEdit | TurnEdit) -> bool:
        """Whether an edit in an inlined body is one that is done in the body itself, whoever calls it."""
        calls = {node.call for node in edit.dead}
        call = self.everything.calls.get(next(iter(calls)) or "") if len(calls) == 1 else None
        return call is not None and frozenset(key_in_body(node, call) for node in edit.dead) in self.within

    # --- what is said ---

    def _in_calls(self, chosen: NormPlan, wanted: Collection[str]) -> Iterator[tuple[Decision, list[str]]]:
        """Norms that stay in bodies, found in the first of the calls that are left, with the nodes that they are about."""
        found = {decision.site: decision for decision in self.open.decisions}
        said, left = set(chosen.spoken_for), self.everything.calls.keys() - set(wanted)
        members: dict[str, list[Node]] = {}
        for scope in self.everything.model.scopes():
            for node in scope.nodes:
                if node.call in left and node.key in self.open.spoken_for:
                    members.setdefault(self.open.spoken_for[node.key], []).append(node)
        for site, nodes in members.items():
            decision, keys = found[site], [node.body_key for node in nodes]
            end = next((node for node in nodes if node.key == site), None)
            if end is None or end.call is None or decision.outcome is Outcome.APPLIED or said & set(keys):
                continue
            said |= set(keys)
            call = self.everything.calls[end.call]
            yield in_call(replace(decision, site=end.body_key), call, decision), keys

    def _unexplained(self) -> set[str]:
        """Statistics in bodies that no norm was found for as the body stands."""
        seeds = [node for _, body in self.model.functions for scope in body.walk() for node in scope.nodes]
        return {node.key for node in seeds if is_seed(node) and node.key not in self.closed.spoken_for}
