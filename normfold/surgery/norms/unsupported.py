"""What is said about norm operators that a target has no kernel for: what they became, or why they stay."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from normfold.model import attributes
from normfold.model.graph import Node
from normfold.model.load import Model
from normfold.norm.sites import STATELESS, is_norm_operator
from normfold.surgery.norms.decisions import describe, notes
from normfold.surgery.norms.edits import RULE
from normfold.surgery.norms.fused import Fused
from normfold.surgery.plan import Decision, Exactness, Outcome
from normfold.targets.lowering import Choice, Lowering
from normfold.targets.names import Target
from normfold.targets.tables import table_of

_OTHERWISE = "only a norm with constant parameters, of which nothing but the result is read, can be written otherwise"
_WHY = {"EmbedLayerNormalization": "it looks up embeddings and makes a mask as well"}


def unfit(node: Node, target: Target, *, precise: bool = False) -> str:
    """Why a target has no kernel for an operator as it stands, whatever the element type; empty if it may have one.

    Args:
        node: the operator.
        target: where it will run.
        precise: whether a kernel whose statistics lose digits is none.
    """
    table = table_of(target)
    kernel = table.kernel(node.op_type, node.domain)
    name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    if table.lacks(node.op_type, node.domain):
        note = f" ({kernel.note})" if kernel is not None and kernel.note else ""
        return f"{target.value} has no kernel for {name}{note}"
    if kernel is None:
        return ""
    is_first = bool(node.domain) and node.op_type == "GroupNorm" and not attributes.get(node, "channels_last", 1)
    if is_first and not kernel.channels_first:
        return f"{target.value} has no kernel for {name} with the channels first"
    return f"{name}: {kernel.imprecise}, which a precision bound rules out" if precise and kernel.imprecise else ""


def unfused(fused: Fused, choice: Choice, lowering: Lowering | None, obstacle: str, why: str) -> Decision:
    """An operator of onnxruntime became others, or none of the target expresses its norm; `why` it cannot stay as it is."""
    end = fused.site.end
    if lowering is None:
        rejected = [f"{item.operator}: {item.message}" for item in choice.rejected]
        return no_kernel(end, why, obstacle or "; ".join(rejected[:1]) or "no other operator expresses it")
    what = f"{fused.describe(lowering)} in {len(lowering.nodes)} nodes"
    message = f"{describe(fused.site.norm)}: {why}; it became {what}; {lowering.reason}"
    return Decision(
        end.key, RULE, RULE, Outcome.APPLIED, end.op_type, end.label, (end.label,), message, Exactness.ROUNDED, None,
        notes(lowering),
    )  # fmt: skip


def no_kernel(node: Node, lack: str, why: str) -> Decision:
    """An operator stays although the target has no kernel for it, or none that is precise enough."""
    key = "precision" if "precision bound" in lack else "no-kernel"
    message = f"{lack}; it stays, because {why}"
    return Decision(node.key, RULE, f"{RULE}.{key}", Outcome.KEPT, node.op_type, node.label, (node.label,), message)


def without_kernel(
    model: Model, target: Target, decided: Mapping[str, Decision], gone: Collection[int]
) -> dict[str, Decision]:
    """The norm operators outside of the standard that are left although the target has no kernel for them, by key.

    Args:
        model: before anything changes.
        target: where it will run.
        decided: what is said already; that a norm is one operator says too little.
        gone: identities of the nodes that go.
    """
    return {
        node.key: no_kernel(node, unfit(node, target), _WHY.get(node.op_type, _OTHERWISE))
        for node in _left(model, target, gone)
        if node.key not in decided or decided[node.key].code.endswith(".single-op")
    }


def _left(model: Model, target: Target, gone: Collection[int]) -> Iterator[Node]:
    for scope in model.scopes():
        for node in scope.nodes:
            is_standard = not node.domain and node.op_type in STATELESS
            if is_standard or node.is_call or not is_norm_operator(node) or id(node) in gone:
                continue
            if unfit(node, target):
                yield node
