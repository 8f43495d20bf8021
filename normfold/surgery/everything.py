"""Model -> everything that is planned for it: first its norms, then the affines of the model that results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from normfold.model.load import Model
from normfold.surgery.calls import Planned, plan_model
from normfold.surgery.inlining import RULE
from normfold.surgery.norms import NormPlan, plan_norms_across
from normfold.surgery.plan import Decision, Outcome, Plan
from normfold.surgery.planner import Exclusions
from normfold.targets.names import Target


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

    Norms come first: what is behind one then goes into its scale and bias.

    Raises:
        InputError: the data of a constant is damaged.
    """
    norms = plan_norms_across(model, exclusions, wishes.target, threads=wishes.threads, precise=wishes.precise)
    patterns = {
        key: ("fused-pattern", f"it is part of the norm that ends at {end.label!r}")
        for key, end in norms.patterns.items()
    }
    affine = replace(exclusions, sites={**patterns, **exclusions.sites})
    planned = plan_model(norms.model, affine, aggressive=wishes.aggressive)
    decisions = tuple(_decisions(norms, planned.plan))
    return Planned(planned.model, replace(planned.plan, decisions=decisions, norms=norms.edits))


def _decisions(norms: NormPlan, plan: Plan) -> Iterator[Decision]:
    """One for every site and call: what belongs to a norm and stays has been spoken of with the norm."""
    yield from norms.decisions
    calls = {decision.site for decision in norms.decisions if decision.rule == RULE}
    for decision in plan.decisions:
        said = calls if decision.rule == RULE else norms.spoken_for
        if decision.outcome is Outcome.APPLIED or decision.site not in said:
            yield decision
