"""Crossings that select, join or interleave channels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normfold.affine import layout
from normfold.affine.algebra import Affine, uniform
from normfold.affine.change import closed, data_only
from normfold.affine.crossings.base import (
    Carried,
    Crossing,
    Direction,
    Passed,
    Way,
    dims_before,
    known_size,
    one_to_one,
    same,
    to_input,
)
from normfold.affine.draft import Absorption, Draft, Slot
from normfold.affine.reasons import Refused
from normfold.model import attributes
from normfold.model.constants import slice_bounds, slice_index
from normfold.model.graph import Node, Use
from normfold.model.shapes import split_sizes
from normfold.model.tensors import Float64

# --- Concat ----------------------------------------------------------------------------------------------------------


def _concat_backward(draft: Draft, node: Node, slot: int, affine: Affine) -> Iterator[Way]:
    """Every branch takes its slice; along any other axis every branch takes the whole."""
    closed(node, ("axis",))
    axis = int(attributes.get(node, "axis", 1)) % affine.rank
    onward: list[tuple[Use, Affine]] = []
    absorbed: list[Absorption] = []
    start = 0
    for operand, value in enumerate(node.inputs):
        part = affine
        if axis in affine.varying:
            size = _branch_size(draft, node, operand, axis)
            part = layout.select(affine, axis, slice(start, start + size))
            start += size
        if draft.constants.get(value) is not None:
            absorbed.append(Absorption(Slot(node, operand), part))
        else:
            onward.append((Use(node, operand), part.compressed()))
    yield Way(tuple(onward), tuple(absorbed))


def _branch_size(draft: Draft, node: Node, operand: int, axis: int) -> int:
    size = dims_before(draft, node, operand)[axis]
    if not isinstance(size, int):
        raise Refused("shape-unknown", f"the number of channels of a branch of {node.label!r} is not known", node.label)
    return size


def _concat_forward(draft: Draft, node: Node, carried: Carried) -> Passed:
    """The branches side by side, with `(1, 0)` for those that carry nothing; equal branches need no sizes."""
    closed(node, ("axis",))
    first = next(iter(carried.values()))
    axis = int(attributes.get(node, "axis", 1)) % first.rank
    everywhere = len(carried) == len(node.inputs)
    if everywhere and all(
        axis not in part.varying and same(part.scale, first.scale) and same(part.shift, first.shift)
        for part in carried.values()
    ):
        return Passed({0: first})
    parts = []
    for operand in range(len(node.inputs)):
        size = _branch_size(draft, node, operand, axis)
        parts.append((carried.get(operand) or uniform(1.0, 0.0, first.rank), size))
    return Passed({0: layout.join(parts, axis)})


# --- selections ------------------------------------------------------------------------------------------------------


def _split_axis(draft: Draft, node: Node, rank: int) -> tuple[int, int, list[int]]:
    closed(node, ("axis", "split", "num_outputs"))
    axis = int(attributes.get(node, "axis", 0)) % rank
    size = dims_before(draft, node)[axis]
    sizes = split_sizes(draft.shapes, node, size)
    if sizes is None or sum(sizes) != size:
        raise Refused("shape-unknown", f"the parts of {node.label!r} are not known", node.label)
    return axis, size, sizes


def _split_backward(draft: Draft, node: Node, slot: int, affine: Affine) -> Iterator[Way]:
    axis, size, sizes = _split_axis(draft, node, affine.rank)
    first = sum(sizes[:slot])
    yield to_input(node, layout.scatter(affine, axis, np.arange(first, first + sizes[slot]), size))


def _split_forward(draft: Draft, node: Node, carried: Carried) -> Passed:
    affine = data_only(node, carried)
    axis = int(attributes.get(node, "axis", 0)) % affine.rank
    if axis not in affine.varying:
        closed(node, ("axis", "split", "num_outputs"))
        return Passed({slot: affine for slot, value in enumerate(node.outputs) if value is not None})
    axis, _, sizes = _split_axis(draft, node, affine.rank)
    outputs, start = {}, 0
    for slot, size in enumerate(sizes):
        outputs[slot] = layout.select(affine, axis, slice(start, start + size)).compressed()
        start += size
    return Passed({slot: part for slot, part in outputs.items() if node.outputs[slot] is not None})


def _slice(draft: Draft, node: Node, affine: Affine, direction: Direction) -> Affine:
    """Backward, a Slice has one reader: the other channels are read by nobody."""
    closed(node, ("starts", "ends", "axes"))
    before = dims_before(draft, node)
    try:
        bounds = slice_bounds(node, [draft.constants.ints(value) for value in node.inputs[1:]])
    except ValueError:
        raise Refused("shape-unknown", f"the bounds of {node.label!r} are not known", node.label) from None
    normal = [(a % len(before), start, end, step) for a, start, end, step in bounds]
    index = slice_index(len(before), normal)
    for axis in {a for a, _, _, _ in normal} & set(affine.varying):
        if direction is Direction.FORWARD:
            affine = layout.select(affine, axis, index[axis])
            continue
        size = known_size(before[axis], node)
        affine = layout.scatter(affine, axis, np.arange(size)[index[axis]], size)
    return affine.compressed() if direction is Direction.FORWARD else affine


def _gather(draft: Draft, node: Node, affine: Affine, direction: Direction) -> Affine:
    """A selection of channels by constant indices (a channel shuffle, say); a scalar index removes the axis."""
    closed(node, ("axis",))
    before, indices = dims_before(draft, node), draft.constants.array(node.input(1))
    axis = int(attributes.get(node, "axis", 0)) % len(before)
    if indices is None or indices.ndim > 1:
        raise Refused("no-absorber", f"Gather {node.label!r} selects by computed indices", node.label)
    positions = np.asarray(indices, np.int64)
    if direction is Direction.FORWARD:
        if axis in affine.varying:
            affine = layout.take(affine, axis, positions.reshape(-1) % affine.shape[axis])
        return (affine if positions.ndim else layout.squeeze(affine, {axis})).compressed()
    if not positions.ndim:
        return layout.unsqueeze(affine, {axis})
    if axis in affine.varying:
        size = known_size(before[axis], node)
        affine = layout.scatter(affine, axis, positions % size, size)
    return affine


# --- blocks ----------------------------------------------------------------------------------------------------------


def _only_channels(node: Node, affine: Affine) -> None:
    if affine.rank != 4 or any(axis != 1 for axis in affine.varying):
        raise Refused("not-per-channel", f"it varies over space at {node.label!r}", node.label)


def _depth_to_space(draft: Draft, node: Node, affine: Affine, direction: Direction) -> Affine:
    """Output channel `c` shows the input channels `(i·b + j)·C' + c` (DCR) or `c·b² + i·b + j` (CRD)."""
    closed(node, ("blocksize", "mode"))
    copies = int(attributes.get(node, "blocksize", 1)) ** 2
    interleaved = attributes.get(node, "mode", "DCR") == "CRD"
    return _blocks(node, affine, copies, interleaved, spread=direction is Direction.BACKWARD)


def _space_to_depth(draft: Draft, node: Node, affine: Affine, direction: Direction) -> Affine:
    """Output channel `(i·b + j)·C + c` shows the input channel `c`."""
    closed(node, ("blocksize",))
    copies = int(attributes.get(node, "blocksize", 1)) ** 2
    return _blocks(node, affine, copies, interleaved=False, spread=direction is Direction.FORWARD)


def _blocks(node: Node, affine: Affine, copies: int, interleaved: bool, *, spread: bool) -> Affine:
    """Between one channel and its `copies`: spread them, or collect them where they agree.

    Raises:
        Refused: `branch`, the copies differ.
    """
    _only_channels(node, affine)

    def change(values: Float64) -> Float64:
        if values.shape[1] == 1:
            return values
        if spread:
            return np.repeat(values, copies, axis=1) if interleaved else np.tile(values, (1, copies, 1, 1))
        grouped = values.reshape((-1, copies) if interleaved else (copies, -1))
        grouped = grouped.T if interleaved else grouped
        if not same(grouped, grouped[:1]):
            raise Refused("branch", f"{node.label!r} joins channels that would need different values", node.label)
        return np.asarray(grouped[0].reshape(1, -1, 1, 1))

    return Affine(change(affine.scale), change(affine.shift))


ROWS: dict[str, Crossing] = {
    "Concat": Crossing(_concat_backward, _concat_forward),
    "Split": Crossing(_split_backward, _split_forward),
    "Slice": one_to_one(_slice),
    "Gather": one_to_one(_gather),
    "DepthToSpace": one_to_one(_depth_to_space),
    "SpaceToDepth": one_to_one(_space_to_depth),
}
