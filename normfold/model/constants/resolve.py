"""Resolves values to constants: initializers, `Constant` nodes, and what the table of operators makes of them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from onnx import AttributeProto

from normfold.errors import InputError
from normfold.model import attributes, dtypes
from normfold.model.computed import leaves
from normfold.model.constants import arithmetic, movement, products, quantised, reductions, sizes
from normfold.model.constants.call import Call, Operator
from normfold.model.constants.quantised import Dequantised
from normfold.model.demand import Answers
from normfold.model.dtypes import MOST_AXES
from normfold.model.graph import Node, Value
from normfold.model.tensors import Array, Float64, TensorSource, Unreadable, Values

_OPERATORS: dict[str, Operator] = {
    **arithmetic.OPERATORS,
    **movement.OPERATORS,
    **products.OPERATORS,
    **quantised.OPERATORS,
    **reductions.OPERATORS,
    **sizes.OPERATORS,
}
# Its second operand is asked for nothing but its type.
_CAST_LIKE = "CastLike"


class Constants:
    """Resolves values to constants; remembers every answer.

    Args:
        type_of: the element type of any value, for CastLike; `Shapes` brings it.
    """

    def __init__(self, type_of: Callable[[Value], int | None] | None = None) -> None:
        self.type_of = type_of
        self._known: Answers[TensorSource | None] = Answers(_operands, self._resolve)
        self._sparse: set[int] = set()
        self._vectors: dict[int, tuple[TensorSource, Float64]] = {}  # by identity of the source, which is kept for that

    def get(self, value: Value | None) -> TensorSource | None:
        """The constant behind a value, its data not yet read where it lies in the file; None if it is no constant."""
        return None if value is None else self._known.get(value)

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

    def vector(self, source: TensorSource) -> Float64:
        """As `float64`, read-only and remembered: statistics are read by the plan and again by what is recorded of it."""
        known = self._vectors.get(id(source))
        if known is None:
            known = self._vectors[id(source)] = (source, float64(source))
            known[1].flags.writeable = False
        return known[1]

    def is_sparse(self, value: Value | None) -> bool:
        """Whether a value would be a constant if sparse tensors were read: it is one, or is made of some."""
        return value is not None and self.get(value) is None and id(value) in self._sparse

    def _resolve(self, value: Value) -> TensorSource | None:
        if value.exposed:
            return None
        if value.tensor is not None:
            return value.tensor
        node = value.producer
        if sparse_dims(value) is not None:
            self._sparse.add(id(value))
        if node is None or node.domain or node.is_bound_by_caller:
            return None
        if node.op_type == "Constant":
            return None if value.output_slot else _constant_node(node)
        return self._evaluated(node, value)

    def _evaluated(self, node: Node, value: Value) -> TensorSource | None:
        operands = _operands(value)
        found = [_by_value(self._known.known(operand)) for operand in operands]
        if not operands or any(source is None for source in found):
            if operands and all(s is not None or id(v) in self._sparse for v, s in zip(operands, found, strict=True)):
                self._sparse.add(id(value))
            return None
        if node.op_type == _CAST_LIKE:
            return self._cast_like(node, found[0])
        if any(source is not None and len(source.dims) > MOST_AXES for source in found):
            return None
        return _evaluate(node, value.output_slot, {id(v): s for v, s in zip(operands, found, strict=True)})

    def _cast_like(self, node: Node, source: TensorSource | None) -> TensorSource | None:
        like = node.input(1)
        target = None if like is None or self.type_of is None else self.type_of(like)
        if target is None or source is None or attributes.unexpected(node, ()):
            return None
        try:
            return arithmetic.cast(source, target)
        except Unreadable:
            return None


def _operands(value: Value) -> list[Value]:
    """What must be constant for a value to be one."""
    node = value.producer
    if value.tensor is not None or node is None or node.domain:
        return []
    if node.op_type != _CAST_LIKE and node.op_type not in _OPERATORS:
        return []
    inputs = node.inputs[:1] if node.op_type == _CAST_LIKE else node.inputs
    return [operand for operand in inputs if operand is not None]


def _by_value(source: TensorSource | None) -> TensorSource | None:
    """What an operator may compute with. A quantised weight would be written as floats, so it stays what it is."""
    return None if isinstance(source, Dequantised) and not source.is_vector else source


def _evaluate(node: Node, slot: int, known: dict[int, TensorSource | None]) -> TensorSource | None:
    operator = _OPERATORS[node.op_type]
    if (operator.outputs and slot >= operator.outputs) or attributes.unexpected(node, operator.attributes):
        return None
    operands = tuple(None if operand is None else known[id(operand)] for operand in node.inputs)
    try:
        with np.errstate(all="ignore"):
            return operator.evaluate(Call(node, operands, slot))
    except (Unreadable, ValueError, IndexError, TypeError, KeyError, OverflowError, ZeroDivisionError):
        return None  # an ill-formed use of the operator: no constant, and the runtime will say why


def sparse_dims(value: Value) -> tuple[int, ...] | None:
    """The shape of a sparse initializer or `Constant`, None for everything else."""
    node = value.producer
    if node is None or node.op_type != "Constant" or node.domain:
        return value.sparse_dims
    stored = node.attributes.get("sparse_value")
    return None if stored is None else tuple(stored.sparse_tensor.dims)


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


def float64(source: TensorSource) -> Float64:
    """All values of a float constant, widened exactly.

    Raises:
        Unreadable: not a float type.
        InputError: the data is missing or has the wrong size.
    """
    if not dtypes.is_float(source.data_type):
        raise Unreadable(dtypes.type_name(source.data_type))
    with np.errstate(invalid="ignore"):  # signalling NaN
        return source.array().astype(np.float64)


def readable(source: TensorSource) -> bool:
    """Whether the values can be read; an external file that is missing is refused where it matters, not here."""
    try:
        for leaf in leaves(source):
            leaf.raw()
    except (Unreadable, InputError):
        return False
    return True
