"""Operators that move the elements of constants and do not compute with them: the element type stays as it is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from normfold.model import attributes
from normfold.model.computed import MOVE_LIMIT, moved
from normfold.model.constants.call import Call, Operator
from normfold.model.constants.slices import slice_bounds, slice_index
from normfold.model.tensors import Array, TensorSource, Unreadable


def _identity(call: Call) -> TensorSource | None:
    return call.operands[0]


def _one(call: Call, function: Callable[[Array], Array]) -> TensorSource | None:
    source = call.source(0)
    return moved(function, (source,), source.data_type)


def _all(sources: Sequence[TensorSource], function: Callable[..., Array]) -> TensorSource | None:
    if len({source.data_type for source in sources}) != 1:
        raise Unreadable("mixed element types")
    return moved(function, sources, sources[0].data_type)


def _transpose(call: Call) -> TensorSource | None:
    perm = attributes.ints(call.node, "perm")
    return _one(call, lambda values: np.transpose(values, perm))


def _reshape(call: Call) -> TensorSource | None:
    dims = call.source(0).dims
    wanted = attributes.ints(call.node, "shape") if len(call.operands) < 2 else call.ints(1)
    if wanted is None:
        return None
    if not call.int_attribute("allowzero", 0):
        wanted = [dims[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    return _one(call, lambda values: values.reshape(wanted))


def _squeeze(call: Call) -> TensorSource | None:
    axes = call.listed("axes", 1)
    return _one(call, lambda values: np.squeeze(values, None if axes is None else tuple(axes)))


def _unsqueeze(call: Call) -> TensorSource | None:
    axes = call.listed("axes", 1)
    return None if axes is None else _one(call, lambda values: np.expand_dims(values, tuple(axes)))


def _flatten(call: Call) -> TensorSource | None:
    dims = call.source(0).dims
    axis = call.int_attribute("axis", 1)
    axis += len(dims) if axis < 0 else 0
    return _one(call, lambda values: values.reshape(math.prod(dims[:axis]), math.prod(dims[axis:])))


def _concat(call: Call) -> TensorSource | None:
    axis = call.int_attribute("axis", 1)
    return _all(call.sources(), lambda *parts: np.concatenate(parts, axis))


def _expand(call: Call) -> TensorSource | None:
    shape = np.broadcast_shapes(call.source(0).dims, tuple(call.ints(1)))
    _require_room(shape)
    return _one(call, lambda values: np.broadcast_to(values, shape))


def _tile(call: Call) -> TensorSource | None:
    dims, repeats = call.source(0).dims, call.ints(1)
    if len(repeats) != len(dims) or min(repeats, default=0) < 0:
        return None  # before opset 6 there was one number of tiles and one axis
    _require_room(tuple(size * count for size, count in zip(dims, repeats, strict=True)))
    return _one(call, lambda values: np.tile(values, repeats))


def _require_room(dims: Sequence[int]) -> None:
    if math.prod(dims) > MOVE_LIMIT:
        raise Unreadable("too large")


def _gather(call: Call) -> TensorSource | None:
    dims, indices = call.source(0).dims, call.small(1).astype(np.int64)
    axis = call.int_attribute("axis", 0)
    _require_room((indices.size, math.prod(dims) // max(1, dims[axis])))
    return _one(call, lambda values: np.take(values, indices, axis))


def _slice(call: Call) -> TensorSource | None:
    bounds = slice_bounds(call.node, [call.optional_ints(slot) for slot in range(1, len(call.operands))])
    index = slice_index(len(call.source(0).dims), bounds)
    return _one(call, lambda values: values[index])


def _split(call: Call) -> TensorSource | None:
    dims = call.source(0).dims
    axis = call.int_attribute("axis", 0) % len(dims)
    sizes = call.listed("split", 1) or _equal_parts(call, dims[axis])
    if sizes is None or sum(sizes) != dims[axis] or len(sizes) != len(call.node.outputs) or min(sizes) < 0:
        return None
    ends = list(itertools.accumulate(sizes))
    part = slice(ends[call.slot] - sizes[call.slot], ends[call.slot])
    return _one(call, lambda values: values[(*[slice(None)] * axis, part)])


def _equal_parts(call: Call, size: int) -> list[int] | None:
    """Equal parts, of which the last may be smaller since opset 18."""
    count = call.int_attribute("num_outputs", len(call.node.outputs))
    if count < 1 or count > 4096 or (call.version < 18 and size % count):
        return None
    part = -(-size // count)
    return [max(min(part, size - part * i), 0) for i in range(count)]


def _where(call: Call) -> TensorSource | None:
    condition = call.small(0)
    if condition.dtype.kind != "b":
        return None
    chosen = (call.source(1), call.source(2))
    _require_room(np.broadcast_shapes(condition.shape, *(source.dims for source in chosen)))
    return _all(chosen, lambda first, second: np.asarray(np.where(condition, first, second)))


def _pad(call: Call) -> TensorSource | None:
    if attributes.get(call.node, "mode", "constant") != "constant":
        return None
    source = call.source(0)
    widths = _pad_widths(call, len(source.dims))
    if widths is None:
        return None
    _require_room([max(size + sum(width), 0) for size, width in zip(source.dims, widths, strict=True)])
    before = [tuple(max(side, 0) for side in width) for width in widths]
    fill = _pad_fill(call)
    kept = tuple(slice(max(-a, 0), max(size - max(-b, 0), 0)) for size, (a, b) in zip(source.dims, widths, strict=True))
    return _one(call, lambda values: np.pad(values[kept], before, constant_values=fill.astype(values.dtype)))


def _pad_widths(call: Call, rank: int) -> list[tuple[int, int]] | None:
    pads = (
        call.ints(1) if call.version >= 11 else attributes.ints(call.node, "pads" if call.version > 1 else "paddings")
    )
    axes = call.optional_ints(3)
    axes = list(range(rank)) if axes is None else [axis % rank for axis in axes]
    if pads is None or len(pads) != 2 * len(axes):
        return None
    widths = [(0, 0)] * rank
    for i, axis in enumerate(axes):
        widths[axis] = (pads[i], pads[i + len(axes)])
    return widths


def _pad_fill(call: Call) -> Array:
    if call.version < 11:
        return np.asarray(call.float_attribute("value", 0.0))
    return np.zeros(()) if call.optional(2) is None else call.small(2).reshape(())


OPERATORS: dict[str, Operator] = {
    "Identity": Operator(_identity),
    "Transpose": Operator(_transpose, ("perm",)),
    "Reshape": Operator(_reshape, ("shape", "allowzero")),
    "Squeeze": Operator(_squeeze, ("axes",)),
    "Unsqueeze": Operator(_unsqueeze, ("axes",)),
    "Flatten": Operator(_flatten, ("axis",)),
    "Concat": Operator(_concat, ("axis",)),
    "Expand": Operator(_expand),
    "Tile": Operator(_tile),
    "Gather": Operator(_gather, ("axis",)),
    "Slice": Operator(_slice, ("starts", "ends", "axes")),
    "Split": Operator(_split, ("axis", "split", "num_outputs"), outputs=0),
    "Where": Operator(_where),
    "Pad": Operator(_pad, ("mode", "pads", "paddings", "value")),
}
