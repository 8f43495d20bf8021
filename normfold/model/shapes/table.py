"""The rules of all families, by operator."""

from __future__ import annotations

from normfold.model import attributes
from normfold.model.graph import Node
from normfold.model.shapes import borders, elementwise, layout, reductions, windows
from normfold.model.shapes.rule import Rule

RULES: dict[str, Rule] = {
    **borders.RULES,
    **elementwise.RULES,
    **layout.RULES,
    **reductions.RULES,
    **windows.RULES,
}


def rule_of(node: Node) -> Rule | None:
    """The rule of a node, None if there is none."""
    return None if node.domain or attributes.is_bound_by_caller(node) else RULES.get(node.op_type)
