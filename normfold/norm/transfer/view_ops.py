"""Operators that move elements: the form stays, the view changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from normfold.model import attributes
from normfold.model.graph import Node
from normfold.model.shapes.layout import node_axes
from normfold.norm.frame import Fact, Frame, Transfer
from normfold.norm.views import UNIT, Axis, View, reshaped, sizes

Facts = Sequence[Fact | None] | None


def _moved(fact: Fact, view: View | None) -> Facts:
    return None if view is None else [replace(fact, view=view)]


def _transpose(frame: Frame, node: Node) -> Facts:
    fact = frame.fact(node.input(0))
    if fact is None or attributes.unexpected(node, ("perm",)):
        return None
    order = attributes.ints(node, "perm") or list(range(len(fact.view)))[::-1]
    if sorted(order) != list(range(len(fact.view))):
        return None
    return _moved(fact, tuple(fact.view[i] for i in order))


def reshape_to(frame: Frame, view: View, target: Sequence[int], *, zero_copies: bool) -> View | None:
    """The view under the shape input of a Reshape.

    Raises:
        SplitError: the frame must start again with finer atoms.
    """
    before = sizes(view, frame.atoms)
    wanted = list(target)
    if zero_copies:
        if any(size == 0 and i >= len(before) for i, size in enumerate(wanted)):
            return None
        wanted = [before[i] if size == 0 else size for i, size in enumerate(wanted)]
    if wanted.count(-1) == 1:
        others = math.prod(size for size in wanted if size != -1)
        if others <= 0:
            return None
        wanted[wanted.index(-1)] = math.prod(before) // others
    if any(size <= 0 for size in wanted) or math.prod(wanted) != math.prod(before):
        return None
    return reshaped(view, wanted, frame.atoms)


def _reshape(frame: Frame, node: Node) -> Facts:
    fact = frame.fact(node.input(0))
    if fact is None or attributes.unexpected(node, ("allowzero", "shape")):
        return None
    target = attributes.ints(node, "shape")
    if node.scope.version >= 5:
        numbers = frame.extents.numbers(node.input(1), frame.known_extents)
        target = None if numbers is None or numbers.dtype != object else [int(n) for n in numbers.reshape(-1)]
    if target is None:
        return None
    zero_copies = not attributes.get(node, "allowzero", 0)
    return _moved(fact, reshape_to(frame, fact.view, target, zero_copies=zero_copies))


def _flatten(frame: Frame, node: Node) -> Facts:
    fact = frame.fact(node.input(0))
    if fact is None or attributes.unexpected(node, ("axis",)):
        return None
    axis = int(attributes.get(node, "axis", 1))
    axis += len(fact.view) if axis < 0 else 0
    if not 0 <= axis <= len(fact.view):
        return None
    before = sizes(fact.view, frame.atoms)
    return _moved(fact, reshaped(fact.view, [math.prod(before[:axis]), math.prod(before[axis:])], frame.atoms))


def _squeeze(frame: Frame, node: Node) -> Facts:
    fact = frame.fact(node.input(0))
    if fact is None or attributes.unexpected(node, ("axes",)):
        return None
    given = node.input(1) is not None or "axes" in node.attributes
    axes = node_axes(frame.shapes, node) if given else _units(frame, fact.view)
    if axes is None:
        return None
    gone = {axis % len(fact.view) for axis in axes} if fact.view else set()
    if any(not fact.view[axis].is_unit for axis in gone):
        return None
    return _moved(fact, tuple(axis for i, axis in enumerate(fact.view) if i not in gone))


def _units(frame: Frame, view: View) -> list[int] | None:
    """The dimensions that a Squeeze without axes removes; None if one of unknown extent could be among them."""
    if any(frame.extents.is_made_up(frame.extent(axis)) for axis in view):
        return None
    return [i for i, axis in enumerate(view) if axis.is_unit]


def _unsqueeze(frame: Frame, node: Node) -> Facts:
    fact = frame.fact(node.input(0))
    axes = None if fact is None or attributes.unexpected(node, ("axes",)) else node_axes(frame.shapes, node)
    if fact is None or axes is None:
        return None
    rank = len(fact.view) + len(axes)
    places = {axis % rank for axis in axes}
    if len(places) != len(axes):
        return None
    left = list(fact.view)[::-1]
    return _moved(fact, tuple(UNIT if i in places else left.pop() for i in range(rank)))


def _expand(frame: Frame, node: Node) -> Facts:
    """Ghosts become dimensions again."""
    fact = frame.fact(node.input(0))
    numbers = None if fact is None else frame.extents.numbers(node.input(1), frame.known_extents)
    if fact is None or numbers is None or numbers.dtype != object or attributes.unexpected(node, ()):
        return None
    target = [int(n) for n in numbers.reshape(-1)]
    rank = max(len(target), len(fact.view))
    view = [UNIT] * (rank - len(fact.view)) + list(fact.view)
    for i, size in enumerate([1] * (rank - len(target)) + target):
        if size in (1, frame.extent(view[i])):
            continue
        grown = Axis(view[i].atoms)
        if frame.extent(grown) != size:
            return None
        view[i] = grown
    return _moved(fact, tuple(view))


TABLE: dict[str, Transfer] = {
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Expand": _expand,
}
