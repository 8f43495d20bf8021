"""Operators that take axes away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normfold.model import attributes
from normfold.model.graph import Node
from normfold.model.shapes.dims import Dims
from normfold.model.shapes.rule import Rule

if TYPE_CHECKING:
    from normfold.model.shapes.derive import Shapes


def _reduce(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data = shapes.known(node.input(0))
    if data is None:
        return None
    axes = reduce_axes(shapes, node, len(data))
    keep = bool(attributes.get(node, "keepdims", 1))
    if axes is None:
        return (None,) * len(data) if keep else None
    return tuple(1 if i in axes else d for i, d in enumerate(data) if keep or i not in axes)


def reduce_axes(shapes: Shapes, node: Node, rank: int) -> set[int] | None:
    """The axes that a Reduce operator removes; None if unknown."""
    if node.input(1) is not None:
        given = shapes.constants.ints(node.input(1))
        if given is None:
            return None
    else:
        given = attributes.ints(node, "axes")
    if not given:
        return set() if attributes.get(node, "noop_with_empty_axes", 0) else set(range(rank))
    return {axis % rank for axis in given}


_REDUCE = (
    "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceL1", "ReduceSumSquare", "ReduceProd",
    "ReduceLogSum", "ReduceLogSumExp",
)  # fmt: skip
RULES: dict[str, Rule] = {
    **dict.fromkeys(_REDUCE, Rule(_reduce)),
}
