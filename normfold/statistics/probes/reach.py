"""Which sites can be probed: what is computed there must depend on the data, and must come out of the bodies around it."""

from __future__ import annotations

from collections.abc import Iterator

from normfold.model.graph import Node, Scope, Value
from normfold.model.load import Model
from normfold.statistics.sites import StatSite

_IF, _LOOP, _SCAN = "If", "Loop", "Scan"
REPEATING = (_LOOP, _SCAN)
# Before this opset a Scan has an axis of its own for the batch, so that its body sees single samples, and no operator makes
# tensors of a size that is not known before.
_FIRST_OPSET = 9
_EXPORT = "to check it with data, export the body as a model of its own"


def owners(node: Node) -> Iterator[Node]:
    """The operators whose bodies a node stands in, from the inside."""
    owner = node.scope.owner
    while owner is not None:
        yield owner
        owner = owner.scope.owner


def is_repeated(site: StatSite) -> bool:
    """Whether a site may run several times for one batch."""
    return any(owner.op_type in REPEATING for owner in owners(site.node))


def reads(node: Node) -> list[Value]:
    """What a node reads, bodies included."""
    inner = [n for body in node.subgraphs for scope in body.walk() for n in scope.nodes]
    captured = [v for body in node.subgraphs for scope in body.walk() for v in scope.outputs]
    return [v for n in (node, *inner) for v in n.inputs if v is not None] + captured


class DependsOnInput:
    """Whether a value of the main graph, or of a body in it, depends on what a caller feeds.

    Inputs of a body count as dependent if anything does that its operator reads: an iteration passes on to the next one.
    """

    def __init__(self, model: Model) -> None:
        self._reached = {id(value) for value in model.graph.inputs if value.tensor is None}
        self._visit(model.graph)

    def __call__(self, value: Value) -> bool:
        """Whether this one does."""
        return id(value) in self._reached

    def _visit(self, scope: Scope) -> None:
        for node in scope.nodes:  # in execution order
            dependent = any(id(value) in self._reached for value in reads(node))
            for body in node.subgraphs:
                self._reached |= {id(value) for value in body.inputs if dependent}
                self._visit(body)
            self._reached |= {id(value) for value in node.outputs if value is not None and dependent}


def unprobed(site: StatSite, model: Model, dependent: DependsOnInput) -> str:
    """Why a site cannot be probed, "" where it can."""
    if site.node.scope.is_function:
        return "it stands in a function that cannot be inlined: what is computed there does not reach the outputs"
    reason = _no_way_out(site)
    if reason:
        return reason
    if not dependent(site.x):
        return "its input does not depend on an input of the model"
    if site.mean is None or site.var is None:
        reasons = [
            f"its {name} cannot be read: {why}" for name, why in site.unreadable.items() if name in ("mean", "var")
        ]
        return "; ".join(reasons) or "it has no statistics"
    if site.mean.shape != site.var.shape:
        return f"{site.mean.size} means and {site.var.size} variances"
    if site.epsilon is None:
        return "its epsilon is not known"
    return ""


def _no_way_out(site: StatSite) -> str:
    """Why moments cannot leave the bodies that a site stands in, "" where they can."""
    inside = ""
    for owner in owners(site.node):
        kind = owner.op_type
        if owner.domain or kind not in (_IF, _LOOP, _SCAN):
            return f"it stands in a body of {kind}, which hands out nothing but its results; {_EXPORT}"
        if owner.scope.version < _FIRST_OPSET:
            return f"it stands in a body of {kind}, and opset {owner.scope.version} is older than {_FIRST_OPSET}; {_EXPORT}"
        if kind == _SCAN and inside not in ("", _SCAN):
            return (
                f"it stands in {'an' if inside == _IF else 'a'} {inside} inside of a Scan, which can only hand out what has "
                f"one shape in all iterations; {_EXPORT}"
            )
        inside = kind
    return ""
