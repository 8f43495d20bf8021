"""Quantisation of constants: `DequantizeLinear`, and the `QuantizeLinear` that quantisation-aware training leaves before it.

A dequantised constant reads like every other one, and keeps its parts besides: what multiplies a quantised weight goes
into its scale, so that the integers stay. Integers are made of floats only where a runtime makes the same ones.
"""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto

from normfold.model import dtypes
from normfold.model.computed import STREAM_LIMIT, Computed, arithmetic, elementwise, is_exact
from normfold.model.constants.call import Call, Operator
from normfold.model.graph import Node
from normfold.model.tensors import Array, FileTensor, Float64, Reader, TensorSource, Unreadable, Values

# The largest |q - zero| of each type.
SPAN: dict[int, float] = {
    TensorProto.INT4: 15,
    TensorProto.UINT4: 15,
    TensorProto.INT8: 255,
    TensorProto.UINT8: 255,
    TensorProto.INT16: 65535,
    TensorProto.UINT16: 65535,
    TensorProto.INT32: 2.0**32,
    TensorProto.FLOAT8E4M3FN: 448,
    TensorProto.FLOAT8E4M3FNUZ: 240,
    TensorProto.FLOAT8E5M2: 57344,
    TensorProto.FLOAT8E5M2FNUZ: 57344,
    TensorProto.FLOAT4E2M1: 6,
}
_PACKED: dict[int, bool] = {TensorProto.INT4: True, TensorProto.UINT4: False}  # two to a byte; whether they have a sign
_TARGETS = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16)
FIRST_PER_AXIS = 13


class Dequantised(Computed):
    """`(integers - zero)·scale`, both of one shape: one for all, one for each position of `axis`, or one for each block.

    Args:
        node: the DequantizeLinear.
        integers: what is stored.
        scale: of shape `()` or `[1]`, `[dims[axis]]`, or the shape of the integers with `dims[axis] / block` blocks.
        zero: None for 0.
        axis: along which the scales stand, None if there is one for all.
        block: length of a block, 0 if there are none.
        data_type: of the result.
    """

    __slots__ = ("axis", "block", "integers", "node", "scale", "zero")

    def __init__(
        self,
        node: Node,
        integers: TensorSource,
        scale: TensorSource,
        zero: TensorSource | None,
        *,
        axis: int | None,
        block: int,
        data_type: int,
    ) -> None:
        parts = [integers, scale] if zero is None else [integers, scale, zero]
        super().__init__(integers.dims, data_type, np.dtype(np.float64), parts, self._walk, in_blocks=True)
        self.node, self.integers, self.scale, self.zero = node, integers, scale, zero
        self.axis, self.block = axis, block

    @property
    def is_vector(self) -> bool:
        """Whether at most one axis is longer than 1: a parameter for each channel, not a weight."""
        return sum(size != 1 for size in self.dims) <= 1

    def zeros(self) -> Float64:
        """The zero points, of the shape of the scale."""
        if self.zero is None:
            return np.zeros(self.scale.dims)
        return _integers(self.zero).array().astype(np.float64).reshape(self.scale.dims)

    def along(self, values: Float64, axis: int | None) -> Float64:
        """One value for each scale, in broadcast form of the integers; without blocks, scales that stand along `axis`."""
        if self.block:
            assert self.axis is not None
            wide = np.repeat(values, self.block, self.axis)
            return wide.take(np.arange(self.dims[self.axis]), self.axis)
        shape = [1] * len(self.dims)
        if axis is not None:
            shape[axis] = -1
        return values.reshape(shape)

    def _walk(self) -> Reader:
        scale = self.along(self.scale.array().astype(np.float64), self.axis)
        zero = self.along(self.zeros(), self.axis)
        parts = [_integers(self.integers), *(Values(part, dtypes.DOUBLE) for part in (zero, scale))]
        return arithmetic(lambda q, z, s: (q - z) * s, parts, self.data_type).reader()


def _integers(source: TensorSource) -> TensorSource:
    """The source with one element for each value: 4-bit integers are stored two to a byte, the first one low."""
    if source.data_type not in _PACKED or not isinstance(source, FileTensor):
        return source
    packed = np.frombuffer(source.raw(), np.uint8)
    values = np.stack([packed & 15, packed >> 4], axis=-1).reshape(-1)[: math.prod(source.dims)].astype(np.int8)
    if _PACKED[source.data_type]:
        values = np.where(values > 7, values - 16, values).astype(np.int8)
    return Values(values.reshape(source.dims), TensorProto.INT8)


def _stored(call: Call, slot: int) -> TensorSource:
    found = call.optional(slot)
    if found is None or (isinstance(found, FileTensor) and found.is_segmented):
        raise Unreadable(f"{call.node.op_type} lacks input {slot}")
    return found


def _granularity(call: Call, dims: tuple[int, ...], scale: TensorSource) -> tuple[int | None, int]:
    """The axis and the block length for which there are scales.

    Raises:
        Unreadable: the shapes do not fit each other.
    """
    block = call.int_attribute("block_size", 0)
    if math.prod(scale.dims) == 1 and len(scale.dims) < 2 and not block:
        return None, 0
    axis = call.int_attribute("axis", 1)
    if call.version < FIRST_PER_AXIS or not -len(dims) <= axis < len(dims):
        raise Unreadable("no such axis")
    axis %= len(dims)
    blocks = -(-dims[axis] // block) if block > 0 else 0
    wanted = (*dims[:axis], blocks, *dims[axis + 1 :]) if block else (dims[axis],)
    if scale.dims != wanted or block < 0:
        raise Unreadable("scales of another shape")
    return axis, block


def _dequantise(call: Call) -> TensorSource:
    integers, scale = _stored(call, 0), call.source(1)
    zero = None if call.optional(2) is None else _stored(call, 2)
    kind = call.int_attribute("output_dtype", 0) or scale.data_type
    if integers.data_type not in SPAN or not (dtypes.is_float(kind) and dtypes.is_float(scale.data_type)):
        raise Unreadable("no quantised type")
    if zero is not None and (zero.data_type != integers.data_type or math.prod(zero.dims) != math.prod(scale.dims)):
        raise Unreadable("zero points of another shape or type")
    if math.prod(integers.dims) > STREAM_LIMIT:
        raise Unreadable("too large")
    axis, block = _granularity(call, integers.dims, scale)
    return Dequantised(call.node, integers, scale, zero, axis=axis, block=block, data_type=kind)


def _quantise(call: Call) -> TensorSource | None:
    """`round(x / scale) + zero`, saturated, in float32 as runtimes do it; other types are left to the runtime."""
    values, scale = call.source(0), call.source(1)
    zero = None if call.optional(2) is None else call.source(2)
    kind = call.int_attribute("output_dtype", 0) or (TensorProto.UINT8 if zero is None else zero.data_type)
    floats = all(part.data_type == dtypes.FLOAT and is_exact(part) for part in (values, scale))
    if not floats or kind not in _TARGETS or (zero is not None and zero.data_type != kind):
        return None
    axis, block = _granularity(call, values.dims, scale)
    if block or (zero is not None and math.prod(zero.dims) != math.prod(scale.dims)):
        return None
    storage = dtypes.numpy_dtype(kind)
    assert storage is not None
    limits, shape = np.iinfo(storage), [1] * len(values.dims)
    if axis is not None:
        shape[axis] = -1
    step = scale.array().astype(np.float32).reshape(shape)
    zeros = np.zeros(shape) if zero is None else zero.array().astype(np.float64).reshape(shape)

    def convert(x: Array, width: Array, shift: Array) -> Array:
        steps = np.asarray(x, np.float32) / np.asarray(width, np.float32)
        rounded = np.rint(steps).astype(np.float64) + np.asarray(shift, np.float64)
        return np.asarray(np.clip(rounded, limits.min, limits.max), storage)

    parts = (values, Values(step, dtypes.FLOAT), Values(zeros, dtypes.DOUBLE))
    return elementwise(convert, parts, kind, storage)


OPERATORS: dict[str, Operator] = {
    "DequantizeLinear": Operator(_dequantise, ("axis", "block_size", "output_dtype")),
    "QuantizeLinear": Operator(_quantise, ("axis", "block_size", "output_dtype", "saturate")),
}
