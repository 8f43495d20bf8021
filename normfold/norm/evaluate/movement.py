"""Operators that move elements, and those that make shapes: data of any type goes through unchanged."""

from __future__ import annotations

import itertools
import math

import numpy as np
from onnx import numpy_helper

from normfold.model import attributes
from normfold.model.constants import shape_part, slice_bounds, slice_index
from normfold.norm.evaluate.call import Array, Call, Operator, Unknown, require_room, widened

_UNEVEN_SPLIT = 18  # from this opset on the last part may be smaller
_WHOLE_LIMIT = 2.0**24


def _reshape(call: Call) -> Array:
    values = call.operand(0)
    wanted = attributes.ints(call.node, "shape") if len(call.operands) < 2 else call.ints(1)
    if wanted is None:
        raise Unknown(f"Reshape {call.node.label!r} has no shape")
    if not call.int_attribute("allowzero", 0):
        wanted = [values.shape[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    return values.reshape(wanted)


def _flatten(call: Call) -> Array:
    values = call.operand(0)
    axis = call.int_attribute("axis", 1)
    axis += values.ndim if axis < 0 else 0
    return values.reshape(math.prod(values.shape[:axis]), math.prod(values.shape[axis:]))


def _transpose(call: Call) -> Array:
    return np.transpose(call.operand(0), attributes.ints(call.node, "perm"))


def _squeeze(call: Call) -> Array:
    axes = call.listed("axes")
    return np.squeeze(call.operand(0), None if axes is None else tuple(axes))


def _unsqueeze(call: Call) -> Array:
    axes = call.listed("axes")
    if axes is None:
        raise Unknown(f"Unsqueeze {call.node.label!r} has no axes")
    return np.expand_dims(call.operand(0), tuple(axes))


def _expand(call: Call) -> Array:
    values, wanted = call.operand(0), call.ints(1)
    if wanted is None:
        raise Unknown(f"Expand {call.node.label!r} has no shape")
    shape = np.broadcast_shapes(values.shape, tuple(wanted))
    require_room(shape)
    return np.broadcast_to(values, shape)


def _concat(call: Call) -> Array:
    parts = call.all()
    if len({part.dtype for part in parts}) != 1:
        raise Unknown(f"Concat {call.node.label!r} of mixed types")
    require_room([sum(part.size for part in parts)])
    return np.concatenate(parts, call.int_attribute("axis", 1))


def _split(call: Call) -> list[Array]:
    values = call.operand(0)
    axis = call.int_attribute("axis", 0)
    length, count = values.shape[axis], len(call.node.outputs)
    sizes = call.listed("split") or _equal_parts(call, length)
    if sum(sizes) != length or len(sizes) != count or min(sizes) < 0:
        raise Unknown(f"Split {call.node.label!r} into {sizes} of {length}")
    return np.split(values, list(itertools.accumulate(sizes))[:-1], axis)


def _equal_parts(call: Call, length: int) -> list[int]:
    count = call.int_attribute("num_outputs", len(call.node.outputs))
    if call.version < _UNEVEN_SPLIT and length % count:
        raise Unknown(f"Split {call.node.label!r} of {length} into {count} parts")
    part = -(-length // count)
    return [max(min(part, length - part * i), 0) for i in range(count)]


def _slice(call: Call) -> Array:
    values = call.operand(0)
    bounds = slice_bounds(call.node, [call.ints(slot) for slot in range(1, len(call.operands))])
    return values[slice_index(values.ndim, bounds)]


def _gather(call: Call) -> Array:
    values, indices, axis = call.operand(0), call.operand(1), call.int_attribute("axis", 0)
    if indices.dtype.kind != "i":
        raise Unknown(f"Gather {call.node.label!r} has no integers as indices")
    require_room((indices.size, values.size // max(1, values.shape[axis])))
    return np.take(values, indices, axis)


def _shape(call: Call) -> Array:
    return np.asarray(call.operand(0).shape[shape_part(call.node)], np.int64)


def _size(call: Call) -> Array:
    return np.asarray(call.operand(0).size, np.int64)


def _constant_of_shape(call: Call) -> Array:
    shape = call.ints(0)
    if shape is None:
        raise Unknown(f"ConstantOfShape {call.node.label!r} has no shape")
    require_room(shape)
    attribute = call.node.attributes.get("value")
    fill = np.zeros(1, np.float32) if attribute is None else numpy_helper.to_array(attribute.t)
    return np.broadcast_to(widened(fill).reshape(()), shape)


def _range(call: Call) -> Array:
    """Whole numbers only: how many fractions fit is a matter of rounding."""
    parts = call.all()
    start, limit, step = (float(part.item()) for part in parts)
    if len({part.dtype for part in parts}) != 1 or step == 0:
        raise Unknown(f"Range {call.node.label!r} of these operands")
    if any(number != math.floor(number) or abs(number) > _WHOLE_LIMIT for number in (start, limit, step)):
        raise Unknown(f"Range {call.node.label!r} is not over whole numbers")
    require_room([math.ceil(abs((limit - start) / step))])
    return np.arange(start, limit, step, dtype=np.float64).astype(parts[0].dtype)


OPERATORS: dict[str, Operator] = {
    "Reshape": Operator(_reshape, ("shape", "allowzero")),
    "Flatten": Operator(_flatten, ("axis",)),
    "Transpose": Operator(_transpose, ("perm",)),
    "Squeeze": Operator(_squeeze, ("axes",)),
    "Unsqueeze": Operator(_unsqueeze, ("axes",)),
    "Expand": Operator(_expand),
    "Concat": Operator(_concat, ("axis",)),
    "Split": Operator(_split, ("axis", "split", "num_outputs"), makes=None),
    "Slice": Operator(_slice, ("starts", "ends", "axes")),
    "Gather": Operator(_gather, ("axis",)),
    "Shape": Operator(_shape, ("start", "end")),
    "Size": Operator(_size),
    "ConstantOfShape": Operator(_constant_of_shape, ("value",)),
    "Range": Operator(_range),
}
