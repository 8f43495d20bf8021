"""Crossings that only rearrange axes, or change nothing at all."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normfold.affine import layout
from normfold.affine.algebra import Affine
from normfold.affine.change import closed, data_only
from normfold.affine.crossings.base import (
    Carried,
    Crossing,
    Direction,
    Passed,
    Way,
    dims_before,
    dims_behind,
    known_size,
    one_to_one,
    to_input,
)
from normfold.affine.draft import Draft
from normfold.affine.kernels import require_float
from normfold.affine.reasons import Refused
from normfold.model import attributes
from normfold.model.graph import Node
from normfold.model.shapes import node_axes

# --- nothing but the tensor ------------------------------------------------------------------------------------------


def _identity(draft: Draft, node: Node, affine: Affine, direction: Direction) -> Affine:
    closed(node)
    return affine


def _require_inference(draft: Draft, node: Node) -> None:
    """At inference Dropout is the identity; its mask output must not be in use."""
    closed(node, ("ratio", "seed", "is_test"))
    if node.scope.version < 7 and not attributes.get(node, "is_test", 0):
        raise Refused("training-mode", f"Dropout {node.label!r} is in training mode", node.label)
    mode = node.input(2)
    if mode is not None:
        values = draft.constants.array(mode)
        if values is None or values.any():
            raise Refused("training-mode", f"Dropout {node.label!r} may be in training mode", node.label)
    if any(value is not None and (draft.uses(value) or value.is_output) for value in node.outputs[1:]):
        raise Refused("shared", f"the mask of Dropout {node.label!r} is in use", node.label)


def _dropout(draft: Draft, node: Node, affine: Affine, direction: Direction) -> Affine:
    _require_inference(draft, node)
    return affine


def _cast(draft: Draft, node: Node, affine: Affine, direction: Direction) -> Affine:
    closed(node, ("to",))
    value = node.input(0)
    source = None if value is None else draft.shapes.data_type(value)
    producer = None if value is None else draft.root(value).producer
    if producer is not None:
        require_float(producer)  # the sums of an integer kernel
    if source != attributes.get(node, "to", 0):
        raise Refused(
            "no-absorber", f"Cast {node.label!r} changes the type, and with it where values are rounded", node.label
        )
    return affine


# --- layout ----------------------------------------------------------------------------------------------------------


def _transpose(draft: Draft, node: Node, affine: Affine, direction: Direction) -> Affine:
    closed(node, ("perm",))
    perm = attributes.ints(node, "perm") or list(range(affine.rank))[::-1]
    if sorted(perm) != list(range(affine.rank)):
        raise Refused("ill-formed", f"perm {perm} for rank {affine.rank}", node.label)
    if direction is Direction.FORWARD:
        perm = [int(axis) for axis in np.argsort(perm)]
    return layout.transpose(affine, perm)


def _reshape(draft: Draft, node: Node, affine: Affine, direction: Direction) -> Affine:
    closed(node, ("shape", "allowzero", "axis", "axes", "consumed_inputs"))
    before, after = dims_before(draft, node), dims_behind(draft, node)
    if direction is Direction.FORWARD:
        before, after = after, before
    return layout.reshape(affine, before, after)


def _squeeze(draft: Draft, node: Node, affine: Affine, direction: Direction) -> Affine:
    closed(node, ("axes",))
    before = dims_before(draft, node)
    axes = node_axes(draft.shapes, node)
    if axes is None and (node.input(1) is not None or any(not isinstance(d, int) for d in before)):
        raise Refused("shape-unknown", f"the axes of {node.label!r} are not known", node.label)
    gone = {i for i, d in enumerate(before) if d == 1} if axes is None else {a % len(before) for a in axes}
    return layout.unsqueeze(affine, gone) if direction is Direction.BACKWARD else layout.squeeze(affine, gone)


def _unsqueeze(draft: Draft, node: Node, affine: Affine, direction: Direction) -> Affine:
    closed(node, ("axes",))
    axes = node_axes(draft.shapes, node)
    if axes is None:
        raise Refused("shape-unknown", f"the axes of {node.label!r} are not known", node.label)
    rank = affine.rank + (len(axes) if direction is Direction.FORWARD else 0)
    new = {axis % rank for axis in axes}
    return layout.squeeze(affine, new) if direction is Direction.BACKWARD else layout.unsqueeze(affine, new)


# --- repetition ------------------------------------------------------------------------------------------------------


def _expand_backward(draft: Draft, node: Node, slot: int, affine: Affine) -> Iterator[Way]:
    """The input has its size, or 1 where it is stretched; there it cannot take different values."""
    closed(node)
    before = dims_before(draft, node)
    lead = affine.rank - len(before)
    for axis in affine.varying:
        if axis < lead or known_size(before[axis - lead], node) == 1:
            raise Refused("branch", f"{node.label!r} stretches the axis along which it varies", node.label)
    parts = (part.reshape(part.shape[lead:]) for part in (affine.scale, affine.shift))
    yield to_input(node, Affine(*parts))


def _expand_forward(draft: Draft, node: Node, carried: Carried) -> Passed:
    closed(node)
    affine, rank = data_only(node, carried), len(dims_behind(draft, node))
    return Passed({0: layout.unsqueeze(affine, set(range(rank - affine.rank)))})


def _tile(draft: Draft, node: Node, affine: Affine, direction: Direction) -> Affine:
    """Only along axes where nothing varies: there every copy is treated alike."""
    closed(node)
    repeats = draft.constants.ints(node.input(1))
    if repeats is None or len(repeats) != affine.rank:
        raise Refused("shape-unknown", f"the repeats of {node.label!r} are not known", node.label)
    if any(repeats[axis] != 1 for axis in affine.varying):
        raise Refused("not-per-channel", f"{node.label!r} repeats the axis along which it varies", node.label)
    return affine


ROWS: dict[str, Crossing] = {
    "Identity": one_to_one(_identity),
    "Dropout": one_to_one(_dropout),
    "Cast": one_to_one(_cast),
    "Transpose": one_to_one(_transpose),
    "Reshape": one_to_one(_reshape),
    "Flatten": one_to_one(_reshape),
    "Squeeze": one_to_one(_squeeze),
    "Unsqueeze": one_to_one(_unsqueeze),
    "Expand": Crossing(_expand_backward, _expand_forward),
    "Tile": one_to_one(_tile),
}
