"""Tensors of one number in a shape that is computed of sizes: the ones and zeros that some exporters make for every run.

They are kept as arrays without strides, for the shape may hold made-up extents and be larger than any memory.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import numpy_helper

from normfold.model import attributes, dtypes
from normfold.model.graph import Node, Value
from normfold.norm.meaning import Float64
from normfold.norm.numbers import Extents, Known

_DEPTH = 8
_SAME = {"Identity": (), "Cast": ("to", "saturate", "round_mode")}


def filled(extents: Extents, value: Value, known: Known) -> Float64 | None:
    """What a float tensor holds everywhere, in its shape; None if it is no such tensor."""
    for _ in range(_DEPTH):
        node = value.producer
        if node is None or node.domain or node.is_call or attributes.is_bound_by_caller(node):
            return None
        if node.op_type == "ConstantOfShape":
            return _in_shape(extents, node.input(0), _fill(node), known)
        if node.op_type == "Expand":
            return _in_shape(extents, node.input(1), _number(extents, node), known)
        operand = node.input(0)
        if operand is None or attributes.unexpected(node, _SAME.get(node.op_type, ())) or node.op_type not in _SAME:
            return None
        if node.op_type == "Cast" and not dtypes.is_float(int(attributes.get(node, "to", 0))):
            return None
        value = operand
    return None


def is_filled(values: Float64) -> bool:
    """Whether every element is the same place in memory."""
    return all(stride == 0 or size == 1 for stride, size in zip(values.strides, values.shape, strict=True))


def collapsed(values: Float64) -> Float64:
    """The different elements: one of a filled tensor, all of any other."""
    return values[(slice(0, 1),) * values.ndim] if is_filled(values) else values


def mapped(values: Float64, function: Callable[[Float64], Float64]) -> Float64:
    """A function of every element, worked out once for a filled tensor."""
    return np.broadcast_to(function(collapsed(values)), values.shape) if is_filled(values) else function(values)


def _in_shape(extents: Extents, shape: Value | None, number: float | None, known: Known) -> Float64 | None:
    sizes = None if number is None else extents.numbers(shape, known)
    if sizes is None or number is None or sizes.dtype != object or any(int(size) <= 0 for size in sizes.reshape(-1)):
        return None
    try:
        return np.broadcast_to(np.float64(number), [int(size) for size in sizes.reshape(-1)])
    except ValueError:
        return None  # more elements than an index can count


def _fill(node: Node) -> float | None:
    attribute = node.attributes.get("value")
    if attribute is None:
        return 0.0
    fill = numpy_helper.to_array(attribute.t)
    is_number = fill.dtype.kind in "fiu" or fill.dtype.name == "bfloat16"
    return (
        float(fill.reshape(-1)[0])
        if is_number and fill.size == 1 and not attributes.unexpected(node, ("value",))
        else None
    )


def _number(extents: Extents, node: Node) -> float | None:
    array = extents.shapes.constants.array(node.input(0))
    if array is None or array.size != 1 or attributes.unexpected(node, ()):
        return None
    return float(np.asarray(array, np.float64).reshape(-1)[0])
