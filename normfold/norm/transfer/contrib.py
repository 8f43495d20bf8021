"""Norms of onnxruntime's own domain."""

from __future__ import annotations

from collections.abc import Sequence

from normfold.model import attributes
from normfold.model.graph import Node
from normfold.norm.frame import Constant, Fact, Frame, Transfer
from normfold.norm.transfer.composites import epsilon_of, grouped
from normfold.norm.transfer.elementwise import add, multiply

Facts = Sequence[Fact | None] | None


def _group_norm(frame: Frame, node: Node) -> Facts:
    """GroupNorm without its activation: with it, the result is no norm any more."""
    fact = frame.fact(node.input(0))
    known = ("epsilon", "groups", "activation", "channels_last")
    if fact is None or len(fact.view) != 4 or any(name not in known for name in node.attributes):
        return None
    if attributes.get(node, "activation", 0):
        return None
    channel = 3 if attributes.get(node, "channels_last", 1) else 1
    groups, epsilon = int(attributes.get(node, "groups", 0)), epsilon_of(node)
    result = grouped(frame, fact, groups, channel, epsilon)
    for slot, step in ((1, multiply), (2, add)):
        found = frame.constant(node.input(slot))
        if found is None:
            return None
        values = found.values.reshape([-1, *[1] * (3 - channel)])
        result = step(frame, result, Constant(values, found.data_type))
    return [result]


TABLE: dict[str, Transfer] = {"GroupNorm": _group_norm}
