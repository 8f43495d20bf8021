"""Operators that take axes away, and recurrent ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normfold.model import attributes
from normfold.model.graph import Node
from normfold.model.shapes.dims import Dims
from normfold.model.shapes.rule import EVERY_INPUT, Rule

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


_RNN_LAYOUT_FREE = (
    "hidden_size", "direction", "activations", "activation_alpha", "activation_beta", "clip", "input_forget",
    "linear_before_reset",
)  # fmt: skip


def _recurrent(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data, weight = shapes.known(node.input(0)), shapes.known(node.input(1))
    hidden = attributes.get(node, "hidden_size", None)
    if data is None or weight is None or attributes.unexpected(node, _RNN_LAYOUT_FREE) or slot != 0:
        return None
    return (data[0], weight[0], data[1], hidden)


_REDUCE = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceL1", "ReduceSumSquare")
RULES: dict[str, Rule] = {
    **dict.fromkeys(_REDUCE, Rule(_reduce)),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), Rule(_recurrent, EVERY_INPUT)),
}
