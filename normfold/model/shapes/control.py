"""Outputs of If and Loop: what all ways to them agree on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from normfold.model.graph import Node, Value
from normfold.model.shapes.dims import Dim, Dims
from normfold.model.shapes.rule import Rule

if TYPE_CHECKING:
    from normfold.model.shapes.derive import Shapes


def sources(node: Node, slot: int) -> list[Value | None]:
    """The values of which one becomes an output: the outputs of the branches; what enters a Loop, and its body's."""
    first = 0 if node.op_type == "If" else 1  # a body says first whether to go on
    inner = [scope.outputs[first + slot] if first + slot < len(scope.outputs) else None for scope in node.subgraphs]
    return inner if node.op_type == "If" or slot >= _states(node) else [node.input(slot + 2), *inner]


def _states(node: Node) -> int:
    """How many values a Loop carries; its other outputs collect one element an iteration."""
    return len(node.inputs) - 2


def _if(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    return _agreed(shapes.known(value) for value in sources(node, slot))


def _loop(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    agreed = _agreed(shapes.known(value) for value in sources(node, slot))
    if agreed is None or slot < _states(node):
        return agreed
    return (None, *agreed)  # one for each iteration


def _agreed(known: Iterable[Dims | None]) -> Dims | None:
    every = list(known)
    first = every[0] if every else None
    if first is None or any(dims is None or len(dims) != len(first) for dims in every):
        return None
    return tuple(_same(column) for column in zip(*(dims for dims in every if dims is not None), strict=True))


def _same(column: tuple[Dim, ...]) -> Dim:
    return column[0] if all(isinstance(size, int) and size == column[0] for size in column) else None


RULES: dict[str, Rule] = {"If": Rule(_if, 0, sources=sources), "Loop": Rule(_loop, 0, sources=sources)}
