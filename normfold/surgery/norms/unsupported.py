"""What is said about norm operators that a target has no kernel for: what they became, or why they stay."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

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


def unfused(fused: Fused, choice: Choice, lowering: Lowering | None, obstacle: str, target: Target) -> Decision:
    """An operator of onnxruntime became others, or none of the target expresses its norm."""
    end = fused.site.end
    if lowering is None:
        rejected = [f"{item.operator}: {item.message}" for item in choice.rejected]
        return no_kernel(end, target, obstacle or "; ".join(rejected[:1]) or "no other operator expresses it")
    what = f"{fused.describe(lowering)} in {len(lowering.nodes)} nodes"
    message = f"{describe(fused.site.norm)}: {_lack(end, target)}; it became {what}; {lowering.reason}"
    return Decision(
        end.key, RULE, RULE, Outcome.APPLIED, end.op_type, end.label, (end.label,), message, Exactness.ROUNDED, None,
        notes(lowering),
    )  # fmt: skip


def no_kernel(node: Node, target: Target, why: str) -> Decision:
    """An operator stays although the target has no kernel for it, or none that is precise enough."""
    kernel = table_of(target).kernel(node.op_type, node.domain)
    key = "precision" if kernel is not None and kernel.types else "no-kernel"
    message = f"{_lack(node, target)}; it stays, because {why}"
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
        node.key: no_kernel(node, target, _WHY.get(node.op_type, _OTHERWISE))
        for node in _left(model, target, gone)
        if node.key not in decided or decided[node.key].code.endswith(".single-op")
    }


def _left(model: Model, target: Target, gone: Collection[int]) -> Iterator[Node]:
    table = table_of(target)
    for scope in model.scopes():
        for node in scope.nodes:
            is_standard = not node.domain and node.op_type in STATELESS
            if is_standard or node.is_call or not is_norm_operator(node) or id(node) in gone:
                continue
            if table.lacks(node.op_type, node.domain):
                yield node


def _lack(node: Node, target: Target) -> str:
    kernel = table_of(target).kernel(node.op_type, node.domain)
    if kernel is not None and kernel.types:
        return f"{node.op_type}: {kernel.imprecise}, which a precision bound rules out"
    note = f" ({kernel.note})" if kernel is not None and kernel.note else ""
    return f"{target.value} has no kernel for {f'{node.domain}.' if node.domain else ''}{node.op_type}{note}"
