"""What is said about norms."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from normfold.model.graph import Node
from normfold.norm.meaning import Norm
from normfold.norm.recognise import NormSite
from normfold.surgery.norms.edits import RULE
from normfold.surgery.plan import Decision, Exactness, Outcome
from normfold.targets.lowering import Choice, Lowering
from normfold.targets.names import Target

_KEEP_RULE = "NF201"
_USER = "user-keep"


def describe(norm: Norm) -> str:
    """A norm in a few words: `LayerNorm over the last axis, epsilon 1e-05`."""
    where = f"{norm.groups} groups of channels" if norm.groups is not None else _axes(norm)
    return f"{norm.kind.value} over {where}, epsilon {norm.epsilon:g}"


def _axes(norm: Norm) -> str:
    if norm.is_suffix:
        return "the last axis" if len(norm.axes) == 1 else f"the last {len(norm.axes)} axes"
    return f"axes {', '.join(map(str, norm.axes))}" if len(norm.axes) > 1 else f"axis {norm.axes[0]}"


def nodes(count: int) -> str:
    """So many nodes, in words."""
    return f"{count} node{'s' * (count != 1)}"


def applied(site: NormSite, lowering: Lowering, gone: Collection[Node]) -> Decision:
    """The norm became something else, with what its operator takes from the surroundings."""
    new = len(lowering.nodes)
    what = nodes(len(gone)) if len(gone) > 1 else site.end.op_type
    message = f"{describe(site.norm)}: {what} became {lowering.operator}"
    if new > 1:
        message += f" in {new} nodes"
    return Decision(
        site.end.key, RULE, RULE, Outcome.APPLIED, site.end.op_type, site.end.label, _labels(site, gone),
        f"{message}; {lowering.reason}", Exactness.ROUNDED, None, notes(lowering),
    )  # fmt: skip


def notes(lowering: Lowering) -> tuple[str, ...]:
    """What a spelling rests on."""
    return tuple(f"rests on a fact that no hardware has confirmed: {mark}" for mark in lowering.marks)


def turned(site: NormSite, lowering: Lowering, gone: Collection[Node], together: int) -> Decision:
    """The norm became an operator that works channels-last, with the operators around it."""
    found = applied(site, lowering, gone)
    inner = len(lowering.nodes) - 2  # its own Transposes cancel
    message = f"{describe(site.norm)}: {nodes(len(gone))} became {lowering.operator}"
    message += f" in {inner} nodes" if inner > 1 else ""
    return replace(found, message=f"{message}; {together} nodes work channels-last; {lowering.reason}")


def refused(site: NormSite, key: str, message: str) -> Decision:
    """The norm stays because something speaks against the find, or against the edit."""
    outcome = Outcome.KEPT if key in (_USER, "statistics") else Outcome.REFUSED
    text = f"{describe(site.norm)}: {message}"
    return Decision(site.end.key, RULE, f"{RULE}.{key}", outcome, site.end.op_type, site.end.label, _labels(site), text)


def kept(
    site: NormSite,
    choice: Choice,
    opset: int,
    obstacle: str,
    target: Target,
    *,
    is_spelled: bool,
    front: Sequence[Node] = (),
) -> Decision:
    """The norm stays because there is nothing better for it; `front` are the nodes of it that only scale or shift x."""
    end = site.end
    if len(site.dead) == 1 and not site.borrows:
        text = f"{describe(site.norm)}: already is the one operator {end.op_type}"
        return Decision(
            end.key, _KEEP_RULE, f"{_KEEP_RULE}.single-op", Outcome.KEPT, end.op_type, end.label, (end.label,), text
        )
    if site.borrows:
        return refused(site, "statistics", "somebody else needs its statistics, and an operator would take them again")
    rejected = sorted(choice.rejected, key=lambda item: item.key == "surroundings")  # stable: the telling ones first
    if obstacle and any(lowering.opset > opset for lowering in choice.lowerings):
        key, why = "opset", obstacle
    elif rejected and not is_spelled:
        key, why = rejected[0].key, f"{rejected[0].operator}: {rejected[0].message}"
    else:
        key, why = "target-spelling", f"it is spelled as {target.value} does best"
    scaled = "".join(f", {node.op_type} {node.label!r} in front included" for node in front[:1])
    text = f"{describe(site.norm)} in {len(site.dead)} nodes{scaled}; {why}"
    return Decision(end.key, RULE, f"{RULE}.{key}", Outcome.KEPT, end.op_type, end.label, _labels(site), text)


def _labels(site: NormSite, gone: Collection[Node] = ()) -> tuple[str, ...]:
    return tuple(dict.fromkeys((site.end.label, *(node.label for node in gone or site.dead))))
