"""Reductions and norms of constants: weight normalisation, weight standardisation, softmax of mixing weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from normfold.model import attributes
from normfold.model.computed import Computed, arithmetic, moved, reduced, settled
from normfold.model.constants.call import Call, Operator, is_float, small_values
from normfold.model.tensors import Float64, TensorSource, Unreadable

_INTEGER: dict[str, np.ufunc] = {
    "ReduceSum": np.add,
    "ReduceProd": np.multiply,
    "ReduceMax": np.maximum,
    "ReduceMin": np.minimum,
}
_BEFORE: dict[str, Callable[[Float64], Any]] = {
    "ReduceL1": np.abs,
    "ReduceL2": np.square,
    "ReduceSumSquare": np.square,
}
_AFTER: dict[str, Callable[[Float64], Any]] = {"ReduceL2": np.sqrt, "ReduceLogSum": np.log}
_FLOAT = (*_INTEGER, *_BEFORE, "ReduceMean", "ReduceLogSum")


def _reduce(call: Call) -> TensorSource | None:
    source, name = call.source(0), call.node.op_type
    axes = call.listed("axes", 1)
    if not axes:
        if call.int_attribute("noop_with_empty_axes", 0):
            return source if name in _INTEGER or name == "ReduceMean" else None  # what the others do is disputed
        axes = list(range(len(source.dims)))
    if not is_float(source):
        return _reduce_integers(call, axes)
    after = _AFTER.get(name)
    if name == "ReduceMean":
        count = math.prod(source.dims[axis] for axis in axes)
        after = lambda total: total / count  # noqa: E731
    return _kept(call, reduced(source, axes, before=_BEFORE.get(name), combine=_INTEGER.get(name, np.add), after=after))


def _kept(call: Call, found: Computed) -> TensorSource | None:
    """The result without the reduced axes, where `keepdims` says so."""
    if call.int_attribute("keepdims", 1):
        return settled(found)
    gone = _gone(call)
    dims = tuple(size for axis, size in enumerate(found.dims) if axis not in gone)
    return moved(lambda values: values.reshape(dims), (found,), found.data_type)


def _gone(call: Call) -> set[int]:
    rank = len(call.source(0).dims)
    return {axis % rank for axis in call.listed("axes", 1) or range(rank)}


def _reduce_integers(call: Call, axes: list[int]) -> TensorSource | None:
    combine, values = _INTEGER.get(call.node.op_type), call.small(0)
    if combine is None or not values.size or values.dtype.kind not in "iu":
        return None
    keep = bool(call.int_attribute("keepdims", 1))
    result = combine.reduce(values, axis=tuple(axes), keepdims=keep, dtype=values.dtype)
    return small_values(result, call.source(0).data_type)


def _lp_normalization(call: Call) -> TensorSource | None:
    source = call.source(0)
    order = call.int_attribute("p", 2)
    if not is_float(source) or order not in (1, 2):
        return None
    name = "ReduceL1" if order == 1 else "ReduceL2"
    norm = reduced(source, [call.int_attribute("axis", -1)], before=_BEFORE[name], after=_AFTER.get(name))
    if not np.all(norm.array()):
        return None  # 0 / 0: runtimes differ
    return settled(arithmetic(np.divide, (source, norm), source.data_type))


def _softmax(call: Call) -> TensorSource | None:
    source = call.source(0)
    if not is_float(source):
        return None
    rank = len(source.dims)
    if call.version >= 13:
        axes = [call.int_attribute("axis", -1)]
    else:
        axis = call.int_attribute("axis", 1)
        axes = list(range(axis + rank if axis < 0 else axis, rank))  # a matrix of everything before and after the axis
    if not axes:
        return None
    highest = reduced(source, axes, combine=np.maximum)
    powers = arithmetic(lambda x, top: np.exp(x - top), (source, highest), source.data_type)
    return settled(arithmetic(np.divide, (powers, reduced(powers, axes)), source.data_type))


# --- norms of constants ----------------------------------------------------------------------------------------------


def standardised(source: TensorSource, axes: list[int], epsilon: float) -> Computed:
    """`(x - mean) / sqrt(variance + epsilon)` over the axes, with the biased variance."""
    count = math.prod(source.dims[axis] for axis in axes)
    kind = source.data_type
    centred = arithmetic(np.subtract, (source, reduced(source, axes, after=lambda total: total / count)), kind)
    deviation = reduced(centred, axes, before=np.square, after=lambda total: np.sqrt(total / count + epsilon))
    return arithmetic(np.divide, (centred, deviation), kind)


def _batch_norm(call: Call) -> TensorSource | None:
    """A BatchNormalization of a constant, with the statistics of that constant or with stored ones."""
    data, (scale, shift, mean, variance) = call.source(0), (_per_channel(call, slot) for slot in range(1, 5))
    if not is_float(data) or not attributes.get(call.node, "spatial", 1):
        return None
    epsilon = call.float_attribute("epsilon", 1e-5)
    if _is_training(call):
        axes = [axis for axis in range(len(data.dims)) if axis != 1]
        normal = standardised(data, axes, epsilon)
    else:
        normal = arithmetic(lambda x, m, v: (x - m) / np.sqrt(v + epsilon), (data, mean, variance), data.data_type)
    return settled(arithmetic(lambda x, s, b: x * s + b, (normal, scale, shift), data.data_type))


def _is_training(call: Call) -> bool:
    """By the rules per opset."""
    if call.version >= 14:
        return bool(call.int_attribute("training_mode", 0))
    if call.version < 7:
        return not call.int_attribute("is_test", 0)
    return call.node.named_outputs() > 1


def _per_channel(call: Call, slot: int) -> TensorSource:
    """A parameter of shape `[C]` as it broadcasts against `[N, C, …]`."""
    dims, source = call.source(0).dims, call.source(slot)
    if len(dims) < 2 or source.dims != dims[1:2] or not is_float(source):
        raise Unreadable("no parameter per channel")
    shape = (-1, *([1] * (len(dims) - 2)))
    found = moved(lambda values: values.reshape(shape), (source,), source.data_type)
    if found is None:
        raise Unreadable("too large")
    return found


def _layer_norm(call: Call) -> TensorSource | None:
    data = call.source(0)
    if not is_float(data) or call.version < 17:
        return None
    axis = call.int_attribute("axis", -1) % len(data.dims)
    normal = standardised(data, list(range(axis, len(data.dims))), call.float_attribute("epsilon", 1e-5))
    scale, shift = call.source(1), call.optional(2)
    if any(len(part.dims) > len(data.dims) for part in (scale, shift) if part is not None):
        return None
    scaled = arithmetic(np.multiply, (normal, scale), data.data_type)
    return settled(scaled if shift is None else arithmetic(np.add, (scaled, call.source(2)), data.data_type))


def _instance_norm(call: Call) -> TensorSource | None:
    data = call.source(0)
    if not is_float(data) or len(data.dims) < 3:
        return None
    normal = standardised(data, list(range(2, len(data.dims))), call.float_attribute("epsilon", 1e-5))
    parts = (normal, _per_channel(call, 1), _per_channel(call, 2))
    return settled(arithmetic(lambda x, s, b: x * s + b, parts, data.data_type))


_AXES = ("axes", "keepdims", "noop_with_empty_axes")
_BATCH_NORM = ("epsilon", "momentum", "spatial", "is_test", "training_mode")
OPERATORS: dict[str, Operator] = {
    **{name: Operator(_reduce, _AXES) for name in _FLOAT},
    "LpNormalization": Operator(_lp_normalization, ("axis", "p")),
    "Softmax": Operator(_softmax, ("axis",)),
    "BatchNormalization": Operator(_batch_norm, _BATCH_NORM),
    "LayerNormalization": Operator(_layer_norm, ("axis", "epsilon")),
    "InstanceNormalization": Operator(_instance_norm, ("epsilon",)),
}
