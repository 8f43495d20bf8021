"""How an affine on the output of a layout operator looks on its input.

In broadcast form most maps are one numpy call. Reshape is the exception: it splits and merges axes, so the shapes are
aligned group by group, and an affine may only vary along groups whose sizes are all known.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normfold.affine.algebra import Affine
from normfold.affine.reasons import Refused
from normfold.model.shapes import Dim, Dims
from normfold.model.tensors import Float64

# A merged axis is written out element by element; beyond this the affine is no per-channel one any more.
_LARGEST_GROUP = 1 << 20

Integers = NDArray[np.integer[Any]]
Group = tuple[list[int], list[int]]  # axes of the input, axes of the output, that hold the same elements


def transpose(affine: Affine, perm: list[int]) -> Affine:
    """Input side of `output = transpose(input, perm)`."""
    inverse = np.argsort(perm)
    return Affine(np.transpose(affine.scale, inverse), np.transpose(affine.shift, inverse))


def squeeze(affine: Affine, axes: set[int]) -> Affine:
    """Input side of an Unsqueeze that added `axes` (of size 1)."""
    return Affine(np.squeeze(affine.scale, tuple(axes)), np.squeeze(affine.shift, tuple(axes)))


def unsqueeze(affine: Affine, axes: set[int]) -> Affine:
    """Input side of an operator that removed `axes`; nothing varies along them."""
    where = tuple(sorted(axes))
    return Affine(np.expand_dims(affine.scale, where), np.expand_dims(affine.shift, where))


def select(affine: Affine, axis: int, index: slice) -> Affine:
    """The part of an affine that acts on a slice of one axis."""
    at = (slice(None),) * axis + (index,)
    return Affine(*(part if part.shape[axis] == 1 else part[at] for part in (affine.scale, affine.shift)))


def take(affine: Affine, axis: int, positions: Integers) -> Affine:
    """The affine of the elements at `positions` of one axis."""
    return Affine(
        *(part if part.shape[axis] == 1 else part.take(positions, axis) for part in (affine.scale, affine.shift))
    )


def join(parts: list[tuple[Affine, int]], axis: int) -> Affine:
    """Affines side by side along `axis`, each with its size there.

    Raises:
        Refused: `cost`, the result varies along so many elements that it is no per-channel affine any more.
    """
    joined = []
    for pick in ("scale", "shift"):
        arrays = [getattr(affine, pick) for affine, _ in parts]
        common = np.broadcast_shapes(*((*a.shape[:axis], 1, *a.shape[axis + 1 :]) for a in arrays))
        if math.prod(common) * sum(size for _, size in parts) > _LARGEST_GROUP:
            raise Refused("cost", "joined branches vary along too many elements")
        wide = [np.broadcast_to(a, _resized(common, axis, size)) for a, (_, size) in zip(arrays, parts, strict=True)]
        joined.append(np.concatenate(wide, axis))
    return Affine(*joined).compressed()


def scatter(affine: Affine, axis: int, positions: Integers, size: int) -> Affine:
    """Input side of a selection along `axis`: `positions[i]` is the input channel that output channel `i` shows.

    Channels that are not selected get `(1, 0)`.

    Raises:
        Refused: `branch`, a channel selected twice would need two different affines.
    """
    parts = []
    for values, neutral in ((affine.scale, 1.0), (affine.shift, 0.0)):
        shape = list(values.shape)
        shape[axis] = size
        full = np.full(shape, neutral)
        spread = np.moveaxis(np.broadcast_to(values, _resized(values.shape, axis, len(positions))), axis, 0)
        target = np.moveaxis(full, axis, 0)
        target[positions] = spread
        if (target[positions] != spread).any():
            raise Refused("branch", "a channel that is selected twice would need two different values")
        parts.append(full)
    return Affine(*parts)


def _resized(shape: tuple[int, ...], axis: int, size: int) -> tuple[int, ...]:
    return (*shape[:axis], size, *shape[axis + 1 :])


def reshape(affine: Affine, before: Dims, after: Dims) -> Affine:
    """Input side of a Reshape from `before` to `after`.

    Raises:
        Refused: `shape-unknown`, it varies along axes whose fate is not known.
    """
    groups = align(before, after)
    parts = [_reshape_part(part, before, after, groups) for part in (affine.scale, affine.shift)]
    return Affine(*parts).compressed()


def _reshape_part(values: Float64, before: Dims, after: Dims, groups: list[Group]) -> Float64:
    """Each group is written out in its output shape and read in its input shape."""
    working, target = _complete_groups(values.shape, before, after, groups)
    full = np.broadcast_to(values, working)
    return full.reshape(target)


def _complete_groups(
    shape: tuple[int, ...], before: Dims, after: Dims, groups: list[Group]
) -> tuple[list[int], list[int]]:
    """Sizes to expand the output side to, and sizes of the input side: 1 throughout for groups that do not vary."""
    working, target = [1] * len(after), [1] * len(before)
    for inputs, outputs in groups:
        if all(shape[axis] == 1 for axis in outputs):
            continue
        sizes = [shape[outputs[0]]] if len(inputs) == len(outputs) == 1 else [after[axis] for axis in outputs]
        sources = sizes if len(inputs) == len(outputs) == 1 else [before[axis] for axis in inputs]
        if not all(isinstance(size, int) for size in (*sizes, *sources)):
            raise Refused("shape-unknown", "a Reshape splits or merges axes of unknown size")
        if math.prod(s for s in sizes if isinstance(s, int)) > _LARGEST_GROUP:
            raise Refused("cost", "a Reshape merges the channel axis into a very long one")
        for axis, size in zip(outputs, sizes, strict=True):
            working[axis] = int(size)  # type: ignore[arg-type]
        for axis, size in zip(inputs, sources, strict=True):
            target[axis] = int(size)  # type: ignore[arg-type]
    return working, target


def align(before: Dims, after: Dims) -> list[Group]:
    """Split two shapes of the same elements into groups of axes that hold the same elements, in order.

    Groups are cut where the products of the sizes so far agree, from the left and from the right; what lies between
    forms one group. Axes of size 1 hold nothing and are left out.
    """
    left_in = [axis for axis, size in enumerate(before) if size != 1]
    left_out = [axis for axis, size in enumerate(after) if size != 1]
    head = _cut(before, after, left_in, left_out)
    tail = [(i[::-1], o[::-1]) for i, o in _cut(before, after, left_in[::-1], left_out[::-1])][::-1]
    used_in = {axis for inputs, _ in head for axis in inputs}
    used_out = {axis for _, outputs in head for axis in outputs}
    tail = [g for g in tail if not used_in & set(g[0]) and not used_out & set(g[1])]
    used_in |= {axis for inputs, _ in tail for axis in inputs}
    used_out |= {axis for _, outputs in tail for axis in outputs}
    middle = ([a for a in left_in if a not in used_in], [a for a in left_out if a not in used_out])
    return [*head, *([middle] if middle[0] or middle[1] else []), *tail]


def _cut(before: Dims, after: Dims, inputs: list[int], outputs: list[int]) -> list[Group]:
    """The groups that can be closed walking in one direction, until a size is not known."""
    groups: list[Group] = []
    i = o = 0
    while i < len(inputs) and o < len(outputs):
        if _same(before[inputs[i]], after[outputs[o]]):
            groups.append(([inputs[i]], [outputs[o]]))
            i, o = i + 1, o + 1
            continue
        closed = _close(before, after, inputs[i:], outputs[o:])
        if closed is None:
            break
        groups.append((inputs[i : i + closed[0]], outputs[o : o + closed[1]]))
        i, o = i + closed[0], o + closed[1]
    return groups


def _same(a: Dim, b: Dim) -> bool:
    return a is not None and a == b


def _close(before: Dims, after: Dims, inputs: list[int], outputs: list[int]) -> tuple[int, int] | None:
    """How many axes of each side it takes until their products agree."""
    i = o = 0
    left = right = 1
    while left != right or not i:
        take_left = left <= right
        axes, dims, at = (inputs, before, i) if take_left else (outputs, after, o)
        if at >= len(axes) or not isinstance(dims[axes[at]], int):
            return None
        size = int(dims[axes[at]])  # type: ignore[arg-type]
        if take_left:
            left, i = left * size, i + 1
        else:
            right, o = right * size, o + 1
    return i, o
