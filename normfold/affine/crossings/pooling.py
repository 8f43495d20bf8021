"""Crossings that reduce space: pooling and reductions."""

from __future__ import annotations

import numpy as np

from normfold.affine import layout
from normfold.affine.algebra import Affine
from normfold.affine.change import closed
from normfold.affine.crossings.base import (
    Crossing,
    Direction,
    constant_over_space,
    dims_before,
    known_size,
    no_negative,
    no_shift,
    one_to_one,
)
from normfold.affine.draft import Draft
from normfold.affine.reasons import Refused
from normfold.model import attributes
from normfold.model.graph import Node
from normfold.model.shapes import reduce_axes

_WINDOW = ("auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "strides")


def _max_pool(draft: Draft, node: Node, affine: Affine, direction: Direction) -> Affine:
    """Padding counts as minus infinity, so a shift is exact; a scale must be positive."""
    closed(node, (*_WINDOW, "storage_order"))
    if any(value is not None and (draft.uses(value) or value.is_output) for value in node.outputs[1:]):
        raise Refused(
            "shared", f"the indices of MaxPool {node.label!r} are in use: rounding could flip a near-tie", node.label
        )
    constant_over_space(node, affine)
    no_negative(node, affine, allow_zero=False)
    return affine


def _average_pool(draft: Draft, node: Node, affine: Affine, direction: Direction) -> Affine:
    closed(node, (*_WINDOW, "count_include_pad"))
    constant_over_space(node, affine)
    if affine.shifts:
        padded = any(attributes.ints(node, "pads") or ()) or attributes.get(node, "auto_pad", "NOTSET") not in (
            "NOTSET",
            "VALID",
        )
        counts = bool(attributes.get(node, "count_include_pad", 0))
        partial = bool(attributes.get(node, "ceil_mode", 0))
        if (counts and (padded or partial)) or (padded and node.scope.version < 7):
            raise Refused("shift-blocked", f"AveragePool {node.label!r} counts padding zeros at the border", node.label)
    return affine


def _global_pool(draft: Draft, node: Node, affine: Affine, direction: Direction) -> Affine:
    closed(node)
    constant_over_space(node, affine)
    if node.op_type == "GlobalMaxPool":
        no_negative(node, affine, allow_zero=False)
    return affine


def _power_pool(draft: Draft, node: Node, affine: Affine, direction: Direction) -> Affine:
    """A p-norm over space: `‖s·x‖ = abs(s)·‖x‖`; backward only a non-negative scale has such an origin."""
    closed(node, (*_WINDOW, "p"))
    constant_over_space(node, affine)
    return _norm(node, affine, direction)


def _norm(node: Node, affine: Affine, direction: Direction) -> Affine:
    no_shift(node, affine)
    if direction is Direction.BACKWARD:
        no_negative(node, affine, allow_zero=True)
        return affine
    return Affine(np.abs(affine.scale), affine.shift)


def _reduce(draft: Draft, node: Node, affine: Affine, direction: Direction) -> Affine:
    """A reduction over axes along which nothing varies."""
    closed(node, ("axes", "keepdims", "noop_with_empty_axes"))
    before = dims_before(draft, node)
    axes = reduce_axes(draft.shapes, node, len(before))
    if axes is None:
        raise Refused("shape-unknown", f"the axes of {node.label!r} are not known", node.label)
    keeps = bool(attributes.get(node, "keepdims", 1))
    if direction is Direction.BACKWARD and not keeps:
        affine = layout.unsqueeze(affine, axes)
    if axes & set(affine.varying):
        raise Refused("not-per-channel", f"{node.label!r} reduces the axis along which it varies", node.label)
    affine = _reduced(node, affine, direction, [before[axis] for axis in sorted(axes)])
    return layout.squeeze(affine, axes) if direction is Direction.FORWARD and not keeps else affine


def _reduced(node: Node, affine: Affine, direction: Direction, sizes: list[int | str | None]) -> Affine:
    """What a reduction of so many elements does to scale and shift."""
    if node.op_type in ("ReduceMax", "ReduceMin"):
        no_negative(node, affine, allow_zero=False)
    elif node.op_type in ("ReduceL1", "ReduceL2"):
        if not sizes:  # nothing is reduced; whether the absolute value is still taken, runtimes do not agree
            no_negative(node, affine, allow_zero=True)
        return _norm(node, affine, direction)
    elif node.op_type == "ReduceSum" and affine.shifts:
        count = int(np.prod([known_size(size, node) for size in sizes], dtype=np.int64))
        if not count:
            raise Refused("ill-formed", f"{node.label!r} reduces an empty axis", node.label)
        return Affine(affine.scale, affine.shift * count if direction is Direction.FORWARD else affine.shift / count)
    return affine


ROWS: dict[str, Crossing] = {
    "MaxPool": one_to_one(_max_pool),
    "AveragePool": one_to_one(_average_pool),
    "LpPool": one_to_one(_power_pool),
    "GlobalAveragePool": one_to_one(_global_pool),
    "GlobalMaxPool": one_to_one(_global_pool),
    "GlobalLpPool": one_to_one(_power_pool),
    **dict.fromkeys(("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL1", "ReduceL2"), one_to_one(_reduce)),
}
