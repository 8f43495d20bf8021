"""Norms are planned until nothing changes: what one norm became may be what its neighbour was waiting for.

The Transposes around two norms in a row cancel, a norm whose beta had to stay outside may be another operator without it, and a
GroupNorm may take an addition once its neighbour works channels-last. All of that is done in one run, so that a second one on
the result finds nothing. Only what is near to such a place is looked at again: a norm that became one operator, between
nodes that stay what they were, means what it meant before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from normfold.model.graph import Node
from normfold.model.load import Model
from normfold.model.shapes import Hints
from normfold.surgery.norms.edits import NormEdit, NormPlan
from normfold.surgery.norms.emit import made_by
from normfold.surgery.norms.layout import TurnEdit
from normfold.surgery.norms.planning import plan_norms
from normfold.surgery.plan import Outcome
from normfold.surgery.planner import Exclusions
from normfold.targets.names import Target

# Each round needs an edit of the one before; more than this would be two spellings that take turns.
_MOST_ROUNDS = 8
# How many nodes lie at most between what changed and the statistic of a norm that it concerns.
_REACH = 12


def plan_settled(
    model: Model,
    exclusions: Exclusions,
    target: Target,
    *,
    threads: int | None = None,
    precise: bool = False,
    hints: Hints | None = None,
) -> NormPlan:
    """Decide about every norm of a model, and about those that come of what others became.

    Args:
        model: not changed; calls of functions are operators here that nothing is known about, see `across` for more.
        exclusions: what must be left alone.
        target: where the model will run.
        threads: on how many threads, None for the runtime's default.
        precise: rule out operators whose statistics lose digits where the mean dwarfs the deviation.
        hints: what is known about values that calls make or get.

    Raises:
        InputError: the data of a constant is damaged.
    """
    plan = last = plan_norms(model, exclusions, target, threads=threads, precise=precise, hints=hints)
    for _ in range(_MOST_ROUNDS):
        near = _near(last.model, _unsettled(last))
        if not near:
            break
        last = plan_norms(plan.model, exclusions, target, threads=threads, precise=precise, hints=hints, near=near)
        if not last.edits:
            break
        plan = _joined(plan, last)
    return plan


def _unsettled(plan: NormPlan) -> set[str]:
    """The keys of new nodes whose norms may not be what they will be."""
    gone = {id(node) for edit in plan.edits for node in edit.dead}
    found: set[str] = set()
    for edit in plan.edits:
        if isinstance(edit, TurnEdit):
            found |= _turned(edit)
        elif len(edit.nodes) > 1 or not gone.isdisjoint(map(id, _beside(edit))):
            found |= set(made_by(edit.nodes, edit.extent.place))
    return found


def _turned(edit: TurnEdit) -> set[str]:
    change = edit.rewrite
    keys: set[str] = set()
    for node in edit.scope.nodes:
        keys |= set(made_by(change.nodes.get(node.index, ()), node))
        keys |= {f"{node.key}<{i}" for i in range(len(change.front.get(node.index, ())))}
        keys |= {f"{node.key}>{i}" for i in range(len(change.behind.get(node.index, ())))}
    return keys


def _beside(edit: NormEdit) -> Iterator[Node]:
    """The nodes next to those that an edit takes away."""
    own = {id(node) for node in edit.dead}
    for node in edit.dead:
        yield from (item for item in _neighbours(node) if id(item) not in own)


def _neighbours(node: Node) -> Iterator[Node]:
    yield from (value.producer for value in node.inputs if value is not None and value.producer is not None)
    yield from (use.node for value in node.outputs if value is not None for use in value.uses)


def _near(model: Model, keys: Collection[str]) -> list[Node]:
    """The nodes that have these keys, and those around them."""
    if not keys:
        return []
    found = {id(node): node for scope in model.scopes() for node in scope.nodes if node.key in keys}
    edge: Iterable[Node] = list(found.values())
    for _ in range(_REACH):
        edge = {id(node): node for one in edge for node in _neighbours(one) if id(node) not in found}.values()
        found |= {id(node): node for node in edge}
    return list(found.values())


def _joined(first: NormPlan, then: NormPlan) -> NormPlan:
    """Two plans, the second one made for the result of the first, of which it says only what it changed."""
    gone = {node.key for edit in then.edits for node in edit.dead}
    stays = (d for d in first.decisions if d.outcome is Outcome.APPLIED or d.site not in gone)
    new = (d for d in then.decisions if d.outcome is Outcome.APPLIED)
    return NormPlan(
        then.model,
        (*first.edits, *then.edits),
        (*stays, *new),
        {**then.spoken_for, **first.spoken_for},
        {key: end for key, end in {**then.patterns, **first.patterns}.items() if key not in gone},
    )
