"""Model -> everything that is planned for it: its norms, then the affines of the model that results, until nothing changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from normfold.model.load import Model
from normfold.model.tensors import RangeRefusal
from normfold.model.unwritten import unwritten
from normfold.surgery.apply import apply
from normfold.surgery.calls import Planned, plan_model
from normfold.surgery.inlining import RULE
from normfold.surgery.norms import NormPlan, plan_norms_across
from normfold.surgery.plan import Decision, Outcome, Plan, Stage
from normfold.surgery.planner import Exclusions
from normfold.surgery.unsettled import is_unsettled
from normfold.targets.names import Target

# Each needs an edit of the one before; more than this would be two spellings that take turns.
_MOST_STAGES = 8


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user wants of a plan.

    Args:
        target: where the model will run.
        threads: on how many threads, None for the default of the runtime.
        precise: rule out operators whose statistics lose digits where the mean dwarfs the deviation.
        aggressive: fold and merge even where parameters or multiplications grow.
    """

    target: Target = Target.PORTABLE
    threads: int | None = None
    aggressive: bool = False
    precise: bool = False


def plan_everything(model: Model, exclusions: Exclusions, wishes: Wishes) -> Planned:
    """Decide about every norm and affine site of a model.

    Norms come first: what is behind one then goes into its scale and bias. What folds next to a norm, or stands in the place of
    a call, may be what another norm was waiting for; then all is planned again from what has come of it, so that a second
    run finds nothing to do.

    Raises:
        InputError: the data of a constant is damaged.
    """
    once = _planned(model, exclusions, wishes)
    for _ in range(_MOST_STAGES):
        then = _next(once, exclusions, wishes)
        if then is None:
            break
        once = then
    return once.planned


@dataclass(frozen=True, slots=True, eq=False)
class _Once:
    """One look at a model: all that is planned, and the part of it that is about norms."""

    planned: Planned
    norms: NormPlan


def _planned(model: Model, exclusions: Exclusions, wishes: Wishes) -> _Once:
    norms = plan_norms_across(model, exclusions, wishes.target, threads=wishes.threads, precise=wishes.precise)
    patterns = {
        key: ("fused-pattern", f"it is part of the norm that ends at {end.label!r}")
        for key, end in norms.patterns.items()
    }
    affine = replace(exclusions, sites={**patterns, **exclusions.sites})
    planned = plan_model(norms.model, affine, aggressive=wishes.aggressive)
    decisions = tuple(_decisions(norms, planned.plan))
    return _Once(Planned(planned.model, replace(planned.plan, decisions=decisions, norms=norms.edits)), norms)


def _next(once: _Once, exclusions: Exclusions, wishes: Wishes) -> _Once | None:
    """What can be done once a plan is carried out; None for nothing."""
    plan = once.planned.plan
    if not is_unsettled(once.planned, once.norms):
        return None
    stage = Stage(plan, apply(once.planned.model, plan, {}))
    try:
        then = _planned(unwritten(stage.candidate), exclusions, wishes)
    except RangeRefusal:
        return None  # whoever writes the first plan finds out the same, and excludes the edit
    new = then.planned.plan
    if not new.edits and not new.norms:
        return None
    joined = replace(
        new, earlier=(*plan.earlier, stage), decisions=tuple(_continued(plan.decisions, new.decisions)), frozen=()
    )
    return _Once(Planned(then.planned.model, joined), then.norms)


def _continued(first: Sequence[Decision], then: Sequence[Decision]) -> Iterator[Decision]:
    """What was done, and what is said about the rest once that is done."""
    done = {decision.site for decision in first if decision.outcome is Outcome.APPLIED}
    left = {decision.site: decision for decision in then}
    for decision in first:
        if decision.outcome is Outcome.APPLIED:
            yield decision
        elif decision.site in left:
            yield left.pop(decision.site)
    for decision in left.values():
        if decision.site not in done or decision.outcome is Outcome.APPLIED:
            yield decision


def _decisions(norms: NormPlan, plan: Plan) -> Iterator[Decision]:
    """One for every site and call: what belongs to a norm and stays has been spoken of with the norm."""
    yield from norms.decisions
    calls = {decision.site for decision in norms.decisions if decision.rule == RULE}
    for decision in plan.decisions:
        said = calls if decision.rule == RULE else norms.spoken_for
        if decision.outcome is Outcome.APPLIED or decision.site not in said:
            yield decision
