"""What a region reads from outside of it."""

from __future__ import annotations

from collections.abc import Iterable

from normfold.model.constants import Constants
from normfold.model.graph import Node, Value
from normfold.model.tensors import TensorSource


def boundary(nodes: Iterable[Node], constants: Constants) -> tuple[list[Value], dict[str, TensorSource]]:
    """The values that flow into some nodes, and the constants that they read, by name."""
    nodes = list(nodes)
    inside = {id(node) for node in nodes}
    flowing: dict[str, Value] = {}
    found: dict[str, TensorSource] = {}
    for node in nodes:
        for value in node.inputs:
            if value is None or (value.producer is not None and id(value.producer) in inside):
                continue
            source = constants.get(value)
            if source is None:
                flowing[value.name] = value
            else:
                found[value.name] = source
    return list(flowing.values()), found
