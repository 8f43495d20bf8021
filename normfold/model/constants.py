"""What is a constant, and its value.

Initializers and `Constant` nodes are; so is everything that a few harmless operators make of constants, here and in
enclosing scopes. An initializer that a caller may override is not. Arithmetic on floats is carried in float64 without
rounding in between; data movement keeps the storage type; a Cast rounds, because the model says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import AttributeProto, numpy_helper

from normfold.errors import InputError
from normfold.model import attributes, dtypes
from normfold.model.graph import Node, Value
from normfold.model.tensors import Array, FileTensor, TensorSource, Unreadable, Values

# Moving data costs a copy of it; arithmetic costs four of those. Both are bounded: a hostile shape is no constant.
_MOVE_LIMIT = 1 << 26
_COMPUTE_LIMIT = 1 << 22

_ARITHMETIC: dict[str, Callable[..., Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Pow": np.power,
    "Neg": np.negative,
    "Sqrt": np.sqrt,
    "Reciprocal": np.reciprocal,
    "Abs": np.abs,
    "Exp": np.exp,
    "Mod": np.mod,
}
# "To the end" in the words of exporters.
_NO_END = (2**31 - 1, 2**63 - 1)
_INTEGER = {"Add", "Sub", "Mul", "Neg", "Abs", "Mod"}
# Operators of which only the first inputs must be constant: CastLike asks its second for nothing but the type.
_VALUE_INPUTS = {"CastLike": 1}


class Constants:
    """Resolves values to constants; remembers every answer.

    Args:
        type_of: the element type of any value, for CastLike; `Shapes` brings it.
    """

    def __init__(self, type_of: Callable[[Value], int | None] | None = None) -> None:
        self.type_of = type_of
        self._known: dict[int, TensorSource | None] = {}

    def get(self, value: Value | None) -> TensorSource | None:
        """The constant behind a value, its data not yet read where it lies in the file; None if it is no constant."""
        if value is None:
            return None
        pending = [value]
        while pending:
            current = pending[-1]
            if id(current) in self._known:
                pending.pop()
                continue
            missing = [v for v in self._operands(current) if id(v) not in self._known]
            if missing:
                # A cycle cannot occur: loading rejects it.
                pending.extend(missing)
                continue
            self._known[id(current)] = self._resolve(current)
            pending.pop()
        return self._known[id(value)]

    def array(self, value: Value | None) -> Array | None:
        """The values of a constant; None if it is no constant or holds no numbers."""
        source = self.get(value)
        if source is None:
            return None
        try:
            return source.array()
        except Unreadable:
            return None

    def ints(self, value: Value | None) -> list[int] | None:
        """A constant integer list (or scalar), flattened."""
        source = self.get(value)
        if source is None or math.prod(source.dims) > 4096:
            return None
        array = self.array(value)
        if array is None or array.dtype.kind not in "iu":
            return None
        return [int(item) for item in array.reshape(-1)]

    def _operands(self, value: Value) -> list[Value]:
        node = value.producer
        if value.tensor is not None or node is None or node.domain or node.op_type not in _EVALUATE:
            return []
        return [operand for operand in node.inputs[: _VALUE_INPUTS.get(node.op_type)] if operand is not None]

    def _resolve(self, value: Value) -> TensorSource | None:
        if value.exposed:
            return None
        if value.tensor is not None:
            return value.tensor
        node = value.producer
        if node is None or node.domain or value.output_slot or attributes.is_bound_by_caller(node):
            return None
        if node.op_type == "Constant":
            return _constant_node(node)
        evaluate = _EVALUATE.get(node.op_type)
        if evaluate is None:
            return None
        inputs = node.inputs[: _VALUE_INPUTS.get(node.op_type)]
        operands = [None if operand is None else self._known[id(operand)] for operand in inputs]
        if any(found is None and operand is not None for found, operand in zip(operands, inputs, strict=True)):
            return None
        if node.op_type == "CastLike":
            return self._cast_like(node, operands)
        try:
            with np.errstate(all="ignore"):
                return evaluate(node, operands)
        except (Unreadable, ValueError, IndexError, TypeError, KeyError, OverflowError):
            return None  # an ill-formed use of the operator: no constant, and the runtime will say why

    def _cast_like(self, node: Node, operands: Operands) -> TensorSource | None:
        like = node.input(1)
        target = None if like is None or self.type_of is None else self.type_of(like)
        try:
            return None if target is None or operands[0] is None else cast(operands[0], target)
        except Unreadable:
            return None


def _constant_node(node: Node) -> TensorSource | None:
    if len(node.proto.attribute) != 1 or node.proto.attribute[0].ref_attr_name:
        return None
    attribute = node.proto.attribute[0]
    tensor = node.outline.tensors.get(0)
    if attribute.name == "value" and tensor is not None:
        return tensor
    if attribute.name in ("value_float", "value_floats"):
        values = attribute.f if attribute.type == AttributeProto.FLOAT else list(attribute.floats)
        return Values(np.asarray(values, np.float32), dtypes.FLOAT)
    if attribute.name in ("value_int", "value_ints"):
        numbers = attribute.i if attribute.type == AttributeProto.INT else list(attribute.ints)
        return Values(np.asarray(numbers, np.int64), dtypes.onnx_dtype(np.dtype(np.int64)))
    return None  # strings and sparse values


Operands = list[TensorSource | None]


def _read(source: TensorSource | None, limit: int = _MOVE_LIMIT) -> Array:
    if source is None or math.prod(source.dims) > limit:
        raise Unreadable("missing or too large")
    return source.array()


def _int_list(source: TensorSource | None) -> list[int]:
    return [int(item) for item in _read(source, 4096).reshape(-1)]


def _arithmetic(node: Node, operands: Operands) -> TensorSource | None:
    if attributes.unexpected(node, ()):
        return None
    arrays = [_read(operand, _COMPUTE_LIMIT) for operand in operands]
    if math.prod(np.broadcast_shapes(*(array.shape for array in arrays))) > _COMPUTE_LIMIT:
        return None
    data_type = operands[0].data_type if operands[0] else 0
    function = _ARITHMETIC[node.op_type]
    if dtypes.is_float(data_type):
        result = function(*(array.astype(np.float64) for array in arrays))
    elif node.op_type in _INTEGER:
        result = function(*arrays)
    else:
        return None
    return Values(np.asarray(result), data_type)


def _moved(source: TensorSource | None, values: Array) -> TensorSource | None:
    return None if source is None or values.size > _MOVE_LIMIT else Values(values, source.data_type)


def _identity(_node: Node, operands: Operands) -> TensorSource | None:
    return operands[0]


def _cast(node: Node, operands: Operands) -> TensorSource | None:
    if attributes.unexpected(node, ("to",)) or operands[0] is None:
        return None
    return cast(operands[0], int(attributes.get(node, "to", 0)))


def cast(source: TensorSource, target: int) -> TensorSource | None:
    """A constant in another element type, rounded as the model says; None for a type without arithmetic."""
    storage, stored = dtypes.numpy_dtype(target), dtypes.numpy_dtype(source.data_type)
    if target == source.data_type:
        return source
    return None if storage is None else Values(_read(source).astype(stored).astype(storage), target)


def _transpose(node: Node, operands: Operands) -> TensorSource | None:
    return _moved(operands[0], np.transpose(_read(operands[0]), attributes.ints(node, "perm")))


def _reshape(node: Node, operands: Operands) -> TensorSource | None:
    values = _read(operands[0])
    wanted = attributes.ints(node, "shape") if len(operands) < 2 else _int_list(operands[1])
    if wanted is None:
        return None
    if not attributes.get(node, "allowzero", 0):
        wanted = [values.shape[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    return _moved(operands[0], values.reshape(wanted))


def _axes(node: Node, operands: Operands) -> list[int] | None:
    return _int_list(operands[1]) if len(operands) > 1 and operands[1] is not None else attributes.ints(node, "axes")


def _squeeze(node: Node, operands: Operands) -> TensorSource | None:
    axes = _axes(node, operands)
    return _moved(operands[0], np.squeeze(_read(operands[0]), None if axes is None else tuple(axes)))


def _unsqueeze(node: Node, operands: Operands) -> TensorSource | None:
    axes = _axes(node, operands)
    return None if axes is None else _moved(operands[0], np.expand_dims(_read(operands[0]), tuple(axes)))


def _flatten(node: Node, operands: Operands) -> TensorSource | None:
    values = _read(operands[0])
    axis = int(attributes.get(node, "axis", 1))
    axis += values.ndim if axis < 0 else 0
    return _moved(operands[0], values.reshape(math.prod(values.shape[:axis]), -1))


def _concat(node: Node, operands: Operands) -> TensorSource | None:
    parts = [_read(operand) for operand in operands]
    if sum(part.size for part in parts) > _MOVE_LIMIT:
        return None
    return _moved(operands[0], np.concatenate(parts, int(attributes.get(node, "axis", 1))))


def _expand(_node: Node, operands: Operands) -> TensorSource | None:
    values = _read(operands[0])
    shape = np.broadcast_shapes(values.shape, tuple(_int_list(operands[1])))
    return _moved(operands[0], np.broadcast_to(values, shape)) if math.prod(shape) <= _MOVE_LIMIT else None


def _gather(node: Node, operands: Operands) -> TensorSource | None:
    values, indices = _read(operands[0]), _read(operands[1], _COMPUTE_LIMIT).astype(np.int64)
    axis = int(attributes.get(node, "axis", 0))
    if indices.size * (values.size // max(1, values.shape[axis])) > _MOVE_LIMIT:
        return None
    return _moved(operands[0], np.take(values, indices, axis))


def _slice(node: Node, operands: Operands) -> TensorSource | None:
    values = _read(operands[0])
    return _moved(
        operands[0], values[slice_index(values.ndim, slice_bounds(node, [_optional_ints(o) for o in operands[1:]]))]
    )


def _optional_ints(source: TensorSource | None) -> list[int] | None:
    return None if source is None else _int_list(source)


def slice_bounds(node: Node, inputs: list[list[int] | None]) -> list[tuple[int, int, int, int]]:
    """(axis, start, end, step) of a Slice; bounds come as inputs from opset 10 and as attributes before.

    Raises:
        ValueError: starts or ends are unknown, or implementations read them differently.
    """
    if len(node.inputs) > 1:
        starts, ends, axes, steps = (inputs + [None] * 4)[:4]
    else:
        starts, ends, axes, steps = (
            attributes.ints(node, "starts"),
            attributes.ints(node, "ends"),
            attributes.ints(node, "axes"),
            None,
        )
    if starts is None or ends is None:
        raise ValueError("unknown bounds")
    bounds = list(zip(axes or range(len(starts)), starts, ends, steps or [1] * len(starts), strict=True))
    # Backwards, a start before the first element is clamped to it (numpy: nothing is left), and a huge end is nothing
    # by the standard and everything by onnxruntime.
    if any(step < 0 and (start < -1 or end in _NO_END) for _, start, end, step in bounds):
        raise ValueError("backwards from or to a place outside")
    return bounds


def slice_index(rank: int, bounds: list[tuple[int, int, int, int]]) -> tuple[slice, ...]:
    """The numpy index of a Slice: ONNX clamps as numpy does, except that a huge negative end means "to the start"."""
    index = [slice(None)] * rank
    for axis, start, end, step in bounds:
        stop = None if step < 0 and end < -(1 << 30) else end
        index[axis] = slice(start, stop, step)
    return tuple(index)


def _constant_of_shape(node: Node, operands: Operands) -> TensorSource | None:
    shape = tuple(_int_list(operands[0]))
    if math.prod(shape) > _MOVE_LIMIT:
        return None
    attribute = node.attributes.get("value")
    fill = np.zeros(1, np.float32) if attribute is None else numpy_helper.to_array(attribute.t)
    return Values(np.full(shape, fill.reshape(-1)[0], fill.dtype), dtypes.onnx_dtype(fill.dtype))


def _shape(node: Node, operands: Operands) -> TensorSource | None:
    if operands[0] is None or attributes.unexpected(node, ("start", "end")):
        return None
    dims = np.asarray(operands[0].dims[shape_part(node)], np.int64)
    return Values(dims, dtypes.onnx_dtype(dims.dtype))


def shape_part(node: Node) -> slice:
    """The dimensions that a Shape reports, from `start` to `end` (opset 15); both are clamped as numpy clamps them."""
    return slice(int(attributes.get(node, "start", 0)), attributes.get(node, "end", None))


_EVALUATE: dict[str, Callable[[Node, Operands], TensorSource | None]] = {
    **dict.fromkeys(_ARITHMETIC, _arithmetic),
    "Identity": _identity,
    "Cast": _cast,
    "CastLike": _identity,  # the target type is not the operator's own: see `Constants._cast_like`
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Flatten": _flatten,
    "Concat": _concat,
    "Expand": _expand,
    "Gather": _gather,
    "Slice": _slice,
    "ConstantOfShape": _constant_of_shape,
    "Shape": _shape,
}


def float64(source: TensorSource) -> np.ndarray[Any, np.dtype[np.float64]]:
    """All values of a float constant, widened exactly.

    Raises:
        Unreadable: not a float type.
        InputError: the data is missing or has the wrong size.
    """
    if not dtypes.is_float(source.data_type):
        raise Unreadable(dtypes.type_name(source.data_type))
    return source.array().astype(np.float64)


def readable(source: TensorSource) -> bool:
    """Whether the values can be read; an external file that is missing is refused where it matters, not here."""
    try:
        if isinstance(source, FileTensor):
            source.raw()
    except (Unreadable, InputError):
        return False
    return True
