"""Tensors of one number in a shape that is computed of sizes: the ones and zeros that some exporters make for every run.

They are kept as arrays without strides, for the shape may hold made-up extents and be larger than any memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from onnx import numpy_helper

from normfold.model import attributes, dtypes
from normfold.model.graph import Node, Value
from normfold.norm.meaning import Float64
from normfold.norm.numbers import Extents, Known

_DEPTH = 8
_SAME: Mapping[str, tuple[str, ...]] = {"Identity": (), "Cast": ("to", "saturate", "round_mode"), "Reshape": ()}


def filled(extents: Extents, value: Value | None, known: Known, depth: int = 0) -> Float64 | None:
    """What a float tensor holds everywhere, in its shape; None if it is no such tensor."""
    node = None if value is None or depth > _DEPTH else value.producer
    if node is None or node.domain or node.is_call:
        return None
    if node.op_type == "ConstantOfShape":
        return _in_shape(_fill(node), _sizes(extents, node.input(0), known))
    if node.op_type == "Expand":
        return _expanded(extents, node, _sizes(extents, node.input(1), known))
    if node.op_type not in _SAME or attributes.unexpected(node, _SAME[node.op_type]):
        return None
    if node.op_type == "Cast" and not dtypes.is_float(int(attributes.get(node, "to", 0))):
        return None
    inner = filled(extents, node.input(0), known, depth + 1)
    if inner is None or node.op_type != "Reshape":
        return inner
    return _in_shape(float(inner.flat[0]), _reshaped(inner.shape, _sizes(extents, node.input(1), known)))


def is_filled(values: Float64) -> bool:
    """Whether every element is the same place in memory."""
    return all(stride == 0 or size == 1 for stride, size in zip(values.strides, values.shape, strict=True))


def collapsed(values: Float64) -> Float64:
    """The different elements: one of a filled tensor, all of any other."""
    return values[(slice(0, 1),) * values.ndim] if is_filled(values) else values


def mapped(values: Float64, function: Callable[[Float64], Float64]) -> Float64:
    """A function of every element, worked out once for a filled tensor."""
    return np.broadcast_to(function(collapsed(values)), values.shape) if is_filled(values) else function(values)


def _sizes(extents: Extents, shape: Value | None, known: Known) -> list[int] | None:
    found = extents.numbers(shape, known)
    return None if found is None or found.dtype != object else [int(size) for size in found.reshape(-1)]


def _reshaped(before: Sequence[int], target: list[int] | None) -> list[int] | None:
    """The shape input of a Reshape with every extent worked out."""
    if target is None or any(size == 0 and i >= len(before) for i, size in enumerate(target)):
        return None
    wanted = [before[i] if size == 0 else size for i, size in enumerate(target)]
    if wanted.count(-1) == 1:
        rest = math.prod(size for size in wanted if size != -1)
        wanted[wanted.index(-1)] = math.prod(before) // rest if rest else -1
    return wanted if math.prod(wanted) == math.prod(before) else None


def _in_shape(number: float | None, shape: list[int] | None) -> Float64 | None:
    if number is None or shape is None or any(size <= 0 for size in shape):
        return None
    try:
        return np.broadcast_to(np.float64(number), shape)
    except ValueError:
        return None  # more elements than an index can count


def _fill(node: Node) -> float | None:
    if attributes.unexpected(node, ("value",)):
        return None
    attribute = node.attributes.get("value")
    if attribute is None:
        return 0.0
    fill = numpy_helper.to_array(attribute.t)
    is_number = fill.dtype.kind in "fiu" or fill.dtype.name == "bfloat16"
    return float(fill.reshape(-1)[0]) if is_number and fill.size == 1 else None


def _expanded(extents: Extents, node: Node, shape: list[int] | None) -> Float64 | None:
    """One number, of whatever rank, in a shape of at least that rank."""
    array = extents.shapes.constants.array(node.input(0))
    if array is None or array.size != 1 or shape is None or array.ndim > len(shape) or attributes.unexpected(node, ()):
        return None
    return _in_shape(float(np.asarray(array, np.float64).reshape(-1)[0]), shape)
