"""Recurrent operators and attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normfold.model import attributes
from normfold.model.graph import Node
from normfold.model.shapes.dims import Dim, Dims
from normfold.model.shapes.rule import Rule

if TYPE_CHECKING:
    from normfold.model.shapes.derive import Shapes

_LAYOUT_FREE = (
    "hidden_size", "direction", "activations", "activation_alpha", "activation_beta", "clip", "input_forget",
    "linear_before_reset", "output_sequence",
)  # fmt: skip


def _recurrent(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    """`[length, directions, batch, hidden]`, and the last states without the length."""
    data, weight, states = (shapes.known(node.input(i)) for i in range(3))
    if weight is None or len(weight) != 3 or attributes.unexpected(node, _LAYOUT_FREE):
        return None
    length, batch = (None, None) if data is None else data[:2]
    hidden: Dim = attributes.get(node, "hidden_size", None) or (states[2] if states is not None else None)
    return (length, weight[0], batch, hidden) if slot == 0 else (weight[0], batch, hidden)


RULES: dict[str, Rule] = dict.fromkeys(("LSTM", "GRU", "RNN"), Rule(_recurrent, 3))
