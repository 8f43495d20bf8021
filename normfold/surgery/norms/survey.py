"""Every norm of a model and what each target would make of it, for `inspect`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from normfold.model.constants import Constants
from normfold.model.load import Model
from normfold.model.shapes import Hints, Shapes
from normfold.norm.recognise import NormSite, Recogniser
from normfold.surgery.norms.decisions import describe, kept
from normfold.surgery.norms.fused import Fused, fused_nodes, read_fused
from normfold.surgery.norms.planning import Planner, plan_norms
from normfold.surgery.plan import Decision
from normfold.surgery.planner import Exclusions
from normfold.targets.lowering import Choice
from normfold.targets.names import Target
from normfold.targets.reasons import Cannot


@dataclass(frozen=True, slots=True, eq=False)
class Surveyed:
    """A norm of a model.

    Args:
        site: where it is and what it means.
        meaning: that in words, with what its operator does beside it.
        becomes: what is decided about it, by target.
    """

    site: NormSite
    meaning: str
    becomes: Mapping[Target, Decision]


def survey(model: Model, targets: Iterable[Target], hints: Hints | None = None) -> list[Surveyed]:
    """Every norm of a model, and what each target would make of it; what is no norm after all is left out.

    Args:
        model: as it stands.
        targets: which ones.
        hints: what is known about values that calls make or get.

    Raises:
        InputError: the data of a constant is damaged.
    """
    first = Planner(model, Exclusions({}), Target.PORTABLE, None, Shapes(Constants(), hints))
    sites = [site for site in Recogniser(model, first.shapes).sites() if first.is_sound(site)]
    fused = list(_fused(model, first.shapes))
    planners = {target: Planner(model, Exclusions({}), target, None, first.shapes) for target in targets}
    found: dict[Target, Mapping[str, Decision]] = {}
    for target, planner in planners.items():
        planner.look_at(sites)
        planner.choose([*sites, *planner.fused_sites()])
        found[target] = planner.decisions
        if planner.deferred:  # what its neighbours become has a say
            whole = plan_norms(model, Exclusions({}), target)
            found[target] = {**planner.decisions, **{decision.site: decision for decision in whole.decisions}}
    meanings = [(site, describe(site.norm)) for site in sites]
    meanings += [(one.site, f"{describe(one.site.norm)}{one.beside()}") for one in fused]
    return [Surveyed(s, text, {t: _of(s, t, decisions) for t, decisions in found.items()}) for s, text in meanings]


def _fused(model: Model, shapes: Shapes) -> Iterator[Fused]:
    """The operators that do more than normalise, as far as it is known what they do."""
    for node in fused_nodes(model):
        try:
            yield read_fused(shapes, node)
        except Cannot:
            continue


def _of(site: NormSite, target: Target, decisions: Mapping[str, Decision]) -> Decision:
    """What is decided about a norm; nothing is about an operator that the target has."""
    found = decisions.get(site.end.key)
    return found if found is not None else kept(site, Choice(()), 0, "", target, is_spelled=True)
