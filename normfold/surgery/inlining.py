"""What the planners of norms and of affines share about calls: which may be inlined, which an edit needs, what is said."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from normfold.model.functions import Functions
from normfold.model.graph import Node
from normfold.model.inline import Call, Inlined, inline
from normfold.model.load import Model
from normfold.surgery.plan import Decision, Outcome
from normfold.surgery.planner import Exclusions

RULE = "NF302"
_USER_KEEP = ("user-keep", f"{RULE} is excluded by --skip or --only")


def inline_everything(model: Model, exclusions: Exclusions) -> Inlined:
    """The model with all calls inlined; with none, and all refused, where the user does not want it."""
    everything = inline(model)
    if not exclusions.excludes(RULE):
        return everything
    refused = {key: replace(call, obstacle=_USER_KEEP) for key, call in everything.calls.items() if call.outer is None}
    return Inlined(model, {}, refused | everything.refused)


def closure(everything: Inlined, calls: Iterable[str | None]) -> set[str]:
    """Calls with those that they are inside of; those that were inlined before are none any more."""
    found: set[str] = set()
    for call in calls:
        while call is not None and call in everything.calls and call not in found:
            found.add(call)
            call = everything.calls[call].outer
    return found


def key_in_body(node: Node, call: Call | None) -> str:
    """The key of a node of an inlined body in the body itself; its own where no call is given."""
    if call is None:
        return node.key
    return call.function.scope.path + node.key.removeprefix(f"{call.key}/{call.function.name}")


def applied(call: Call, why: str) -> Decision:
    """A call was inlined."""
    message = f"{call.function.name!r} stands in its place, because {why}"
    return Decision(call.key, RULE, RULE, Outcome.APPLIED, call.op_type, call.label, (call.label,), message)


def refusals(everything: Inlined, sites: Collection[str]) -> Iterator[Decision]:
    """The calls that could not be inlined although one of the sites, given by their keys, is in the body or behind it."""
    functions = Functions(everything.model.functions, everything.model.trust.caps)
    bodies = {
        id(scope)
        for _, scope in everything.model.functions
        if any(node.key in sites for s in scope.walk() for node in s.nodes)
    }
    bodies |= functions.callers(bodies)
    for call in everything.refused.values():
        if id(call.function.scope) in bodies:
            yield _refused(call)


def _refused(call: Call) -> Decision:
    assert call.obstacle is not None
    key, message = call.obstacle
    outcome = Outcome.KEPT if key == "user-keep" else Outcome.REFUSED
    return Decision(call.key, RULE, f"{RULE}.{key}", outcome, call.op_type, call.label, (call.label,), message)


def in_call(decision: Decision, call: Call, found: Decision) -> Decision:
    """What is said about a site in a body, with what was found out about it in one of the calls."""
    nodes = tuple(dict.fromkeys((*decision.nodes, call.label, *found.nodes)))
    message = f"as {call.label!r} calls it, {found.message}"
    return replace(decision, code=found.code, outcome=found.outcome, nodes=nodes, message=message)
