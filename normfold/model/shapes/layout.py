"""Operators that move elements."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from normfold.model import attributes
from normfold.model.constants import shape_part, slice_bounds, slice_index
from normfold.model.graph import Node
from normfold.model.shapes.dims import Dim, Dims, broadcast, product
from normfold.model.shapes.rule import EVERY_INPUT, Rule

if TYPE_CHECKING:
    from normfold.model.shapes.derive import Shapes


def _transpose(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data = shapes.known(node.input(0))
    if data is None:
        return None
    perm = attributes.ints(node, "perm") or list(range(len(data)))[::-1]
    return tuple(data[axis] for axis in perm)


def _reshape(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    wanted = attributes.ints(node, "shape") if len(node.inputs) < 2 else shapes.data(node.input(1))
    data = shapes.known(node.input(0))
    if wanted is None:
        return None
    if not attributes.get(node, "allowzero", 0):
        wanted = [
            (data[i] if data is not None and i < len(data) else None) if size == 0 else size
            for i, size in enumerate(wanted)
        ]
    return tuple(_inferred(list(wanted), data))


def _inferred(wanted: list[Dim], data: Dims | None) -> list[Dim]:
    """Replace the one -1 where the other dimensions decide it."""
    if -1 not in wanted:
        return wanted
    at = wanted.index(-1)
    wanted[at] = None
    if data is None:
        return wanted
    left = list(data)
    for size in [item for i, item in enumerate(wanted) if i != at]:
        if size in left and size is not None:
            left.remove(size)  # the same factor on both sides, number or symbol
        else:
            left.append(-size if isinstance(size, int) else None)
    if len(left) == 1 and isinstance(left[0], str):
        wanted[at] = left[0]
    elif all(isinstance(item, int) for item in left):
        above = math.prod(item for item in left if isinstance(item, int) and item >= 0)
        below = math.prod(-item for item in left if isinstance(item, int) and item < 0)
        wanted[at] = above // below if below and above % below == 0 else None
    return wanted


def _flatten(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data = shapes.known(node.input(0))
    if data is None:
        return (None, None)
    axis = int(attributes.get(node, "axis", 1))
    axis += len(data) if axis < 0 else 0
    return (product(data[:axis]), product(data[axis:]))


def node_axes(shapes: Shapes, node: Node, slot: int = 1) -> list[int] | None:
    """Axes as an input (newer opsets) or an attribute; None if absent or unknown."""
    if node.input(slot) is not None:
        return shapes.constants.ints(node.input(slot))
    return attributes.ints(node, "axes")


def _squeeze(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data, axes = shapes.known(node.input(0)), node_axes(shapes, node)
    if data is None or (
        axes is None and (node.input(1) is not None or None in data or any(isinstance(d, str) for d in data))
    ):
        return None
    gone = {i for i, d in enumerate(data) if d == 1} if axes is None else {a % len(data) for a in axes}
    return tuple(dim for i, dim in enumerate(data) if i not in gone)


def _unsqueeze(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data, axes = shapes.known(node.input(0)), node_axes(shapes, node)
    if data is None or axes is None:
        return None
    rank = len(data) + len(axes)
    new = {a % rank for a in axes}
    rest = iter(data)
    return tuple(1 if i in new else next(rest) for i in range(rank))


def _concat(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    known = [dims for operand in node.inputs if (dims := shapes.known(operand)) is not None]
    if not known:
        return None
    axis = int(attributes.get(node, "axis", 1)) % len(known[0])
    sizes = [dims[axis] for dims in known]
    whole = len(known) == len(node.inputs) and all(isinstance(s, int) for s in sizes)
    result: list[Dim] = [
        next((d for d in column if isinstance(d, int)), column[0]) for column in zip(*known, strict=True)
    ]
    result[axis] = sum(s for s in sizes if isinstance(s, int)) if whole else None
    return tuple(result)


def split_sizes(shapes: Shapes, node: Node, size: Dim) -> list[int] | None:
    """Lengths of the parts of a Split along its axis of length `size`; None if unknown."""
    given = shapes.constants.ints(node.input(1)) if node.input(1) is not None else attributes.ints(node, "split")
    if given is not None or node.input(1) is not None:
        return given
    count = int(attributes.get(node, "num_outputs", len(node.outputs)))
    if not isinstance(size, int) or not count:
        return None
    part = -(-size // count)
    return [min(part, size - part * i) for i in range(count)]


def _split(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data = shapes.known(node.input(0))
    if data is None:
        return None
    axis = int(attributes.get(node, "axis", 0)) % len(data)
    sizes = split_sizes(shapes, node, data[axis])
    return (*data[:axis], sizes[slot] if sizes else None, *data[axis + 1 :])


def _slice(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data = shapes.known(node.input(0))
    if data is None:
        return None
    try:
        bounds = slice_bounds(node, [shapes.constants.ints(v) for v in node.inputs[1:]])
    except ValueError:
        axes = shapes.constants.ints(node.input(3)) if node.input(3) is not None else None
        touched = set(range(len(data))) if axes is None else {a % len(data) for a in axes}
        return tuple(None if i in touched else d for i, d in enumerate(data))
    index = slice_index(len(data), bounds)
    return tuple(
        len(range(*part.indices(d))) if isinstance(d, int) else (d if part == slice(None) else None)
        for part, d in zip(index, data, strict=True)
    )


def _gather(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data, indices = shapes.known(node.input(0)), shapes.known(node.input(1))
    if data is None or indices is None:
        return None
    axis = int(attributes.get(node, "axis", 0)) % len(data)
    return (*data[:axis], *indices, *data[axis + 1 :])


def _expand(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    wanted = shapes.data(node.input(1))
    return None if wanted is None else broadcast([shapes.known(node.input(0)), tuple(wanted)])


def _depth_to_space(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data = shapes.known(node.input(0))
    block = int(attributes.get(node, "blocksize", 1))
    if data is None or len(data) != 4:
        return None
    down = node.op_type == "DepthToSpace"
    channels = (data[1] // block**2 if down else data[1] * block**2) if isinstance(data[1], int) else None
    return (data[0], channels, *((d * block if down else d // block) if isinstance(d, int) else None for d in data[2:]))


def _shape_of(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    data = shapes.known(node.input(0))
    if data is None or attributes.unexpected(node, ("start", "end")):
        return (None,)
    return (len(data[shape_part(node)]),)


RULES: dict[str, Rule] = {
    "Transpose": Rule(_transpose),
    "Reshape": Rule(_reshape, shape_input=1),
    "Flatten": Rule(_flatten),
    "Squeeze": Rule(_squeeze),
    "Unsqueeze": Rule(_unsqueeze),
    "Concat": Rule(_concat, EVERY_INPUT),
    "Split": Rule(_split),
    "Slice": Rule(_slice),
    "Gather": Rule(_gather, 2),
    "Expand": Rule(_expand, shape_input=1),
    "DepthToSpace": Rule(_depth_to_space),
    "SpaceToDepth": Rule(_depth_to_space),
    "Shape": Rule(_shape_of),
}
