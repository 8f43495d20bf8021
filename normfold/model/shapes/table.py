"""The rules of all families, by operator."""

from __future__ import annotations

from normfold.model.graph import Node
from normfold.model.shapes import (
    borders,
    contrib,
    control,
    elementwise,
    layout,
    quantised,
    reductions,
    sampling,
    selections,
    sequences,
    tensor_lists,
    windows,
)
from normfold.model.shapes.rule import Rule

RULES: dict[str, Rule] = {
    **borders.RULES,
    **control.RULES,
    **elementwise.RULES,
    **layout.RULES,
    **quantised.RULES,
    **reductions.RULES,
    **sampling.RULES,
    **selections.RULES,
    **sequences.RULES,
    **tensor_lists.RULES,
    **windows.RULES,
}


def rule_of(node: Node) -> Rule | None:
    """The rule of a node, None if there is none."""
    if node.is_call or node.is_bound_by_caller:
        return None
    return (RULES if not node.domain else contrib.RULES if node.domain == contrib.DOMAIN else {}).get(node.op_type)
