"""Constants made of sizes: ConstantOfShape, Shape, Size, Range."""

from __future__ import annotations

import math

import numpy as np
from onnx import numpy_helper

from normfold.model import dtypes
from normfold.model.computed import MOVE_LIMIT, is_exact
from normfold.model.constants.call import SMALL_LIMIT, Call, Operator, is_float, small_values
from normfold.model.constants.slices import shape_part
from normfold.model.tensors import TensorSource, Values

_INT64 = dtypes.onnx_dtype(np.dtype(np.int64))


def _constant_of_shape(call: Call) -> TensorSource | None:
    shape = tuple(call.ints(0))
    if math.prod(shape) > MOVE_LIMIT:
        return None
    attribute = call.node.attributes.get("value")
    fill = np.zeros(1, np.float32) if attribute is None else numpy_helper.to_array(attribute.t)
    return Values(np.broadcast_to(fill.reshape(()), shape), dtypes.onnx_dtype(fill.dtype))


def _shape(call: Call) -> TensorSource | None:
    operand = call.operands[0]
    if operand is None:
        return None
    return small_values(np.asarray(operand.dims[shape_part(call.node)], np.int64), _INT64)


def _size(call: Call) -> TensorSource | None:
    operand = call.operands[0]
    return None if operand is None else small_values(np.asarray(math.prod(operand.dims), np.int64), _INT64)


def _range(call: Call) -> TensorSource | None:
    """Whole numbers only: how many fractions fit is a matter of rounding."""
    operands = call.sources()
    kind = operands[0].data_type
    start, limit, step = (call.number(slot) for slot in range(3))
    numbers = (start, limit, step)
    if not all(is_exact(source) and source.data_type == kind for source in operands) or step == 0:
        return None
    if any(number != math.floor(number) or abs(number) > 2**24 for number in numbers):
        return None
    values = np.arange(start, limit, step, dtype=np.float64) if abs((limit - start) / step) <= SMALL_LIMIT else None
    storage = dtypes.numpy_dtype(kind)
    if values is None or storage is None or (is_float(operands[0]) and kind not in (dtypes.FLOAT, dtypes.DOUBLE)):
        return None
    return small_values(values.astype(storage), kind)


OPERATORS: dict[str, Operator] = {
    "ConstantOfShape": Operator(_constant_of_shape, ("value",)),
    "Shape": Operator(_shape, ("start", "end")),
    "Size": Operator(_size),
    "Range": Operator(_range),
}
