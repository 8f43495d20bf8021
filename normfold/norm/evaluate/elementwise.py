"""Elementwise operators, casts and Dropout.

Floats are float64 all along: a Cast between float types does nothing here. Integers are int64 and are computed as ONNX
does; what depends on the width of a narrower type is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from normfold.model import attributes, dtypes
from normfold.model.constants import Constants
from normfold.model.constants.arithmetic import COMPARISONS, LOGIC, folded, mean, quotient
from normfold.model.graph import Node
from normfold.norm.evaluate.call import SIZE_LIMIT, Array, Call, Operator, Unknown, require_room, type_of
from normfold.norm.meaning import Float64

_NUMPY_BROADCAST = 7  # before this opset, operands stretched only by the attributes `broadcast` and `axis`
_CLIP_BY_INPUT = 11
_DROPOUT_BY_INPUT, _DROPOUT_ALWAYS_INFERS = 12, 7
_INTEGERS = (dtypes.onnx_dtype(np.dtype(np.int32)), dtypes.onnx_dtype(np.dtype(np.int64)))
_BOOL = dtypes.onnx_dtype(np.dtype(bool))
# A float this near to an integer may lie on either side of it in the type of the model.
_NEAR_AN_INTEGER = 1e-5


def _power(base: Array, exponent: Array) -> Any:
    """`base ** exponent` in the type of the base; squares, which are everywhere, without the general power."""
    if exponent.size == 1 and exponent.ndim <= base.ndim and exponent.item() == 2:
        return base * base
    if base.dtype.kind == "f":
        return np.power(base, exponent.astype(np.float64))
    if exponent.dtype.kind != "i":
        raise Unknown("an integer to the power of a float is rounded in a way that depends on its type")
    return np.power(base, exponent)


def _sigmoid(x: Float64) -> Any:
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


_FLOAT: dict[str, Callable[..., Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Pow": _power,
    "Neg": np.negative,
    "Sqrt": np.sqrt,
    "Reciprocal": np.reciprocal,
    "Abs": np.abs,
    "Exp": np.exp,
    "Sigmoid": _sigmoid,
    "Relu": lambda x: np.maximum(x, 0.0),
    "Max": folded(np.maximum),
    "Min": folded(np.minimum),
    "Sum": folded(np.add),
    "Mean": mean,
}
_INTEGER: dict[str, Callable[..., Any]] = {
    **{name: _FLOAT[name] for name in ("Add", "Sub", "Mul", "Neg", "Abs", "Max", "Min", "Pow")},
    "Div": quotient,
    "Relu": lambda x: np.maximum(x, 0),
}


def _arithmetic(call: Call) -> Array:
    operands, name = _stretched(call), call.node.op_type
    kinds = {operand.dtype.kind for operand in operands[: 1 if name == "Pow" else None]}
    if kinds == {"f"}:
        return np.asarray(_FLOAT[name](*operands))
    if kinds != {"i"} or name not in _INTEGER:
        raise Unknown(f"{name} {call.node.label!r} of {_words(operands)}")
    return np.asarray(_INTEGER[name](*operands), np.int64)


def _comparison(call: Call) -> Array:
    operands = _stretched(call)
    if len({operand.dtype.kind for operand in operands}) != 1:
        raise Unknown(f"{call.node.op_type} {call.node.label!r} of {_words(operands)}")
    return np.asarray(COMPARISONS[call.node.op_type](*operands))


def _logic(call: Call) -> Array:
    operands = _stretched(call)
    if any(operand.dtype.kind != "b" for operand in operands):
        raise Unknown(f"{call.node.op_type} {call.node.label!r} of {_words(operands)}")
    return np.asarray(LOGIC[call.node.op_type](*operands))


def _words(operands: Sequence[Array]) -> str:
    return " and ".join(str(operand.dtype) for operand in operands)


def _stretched(call: Call) -> list[Array]:
    """The operands, the second one with its dimensions where the attributes of old opsets put them."""
    operands = call.all()
    if math.prod(operand.size for operand in operands) > SIZE_LIMIT:
        require_room(np.broadcast_shapes(*(operand.shape for operand in operands)))
    if call.version >= _NUMPY_BROADCAST or len(operands) != 2:
        return operands
    first, second = operands
    if first.shape != second.shape and not call.int_attribute("broadcast", 0):
        raise Unknown(f"{call.node.op_type} {call.node.label!r} has operands of different shapes, without broadcast")
    if "axis" in call.node.attributes:
        axis = call.int_attribute("axis", 0) % max(first.ndim, 1)
        second = second.reshape(second.shape + (1,) * max(first.ndim - axis - second.ndim, 0))
    return [first, second]


def _clip(call: Call) -> Array:
    values = call.operand(0)
    if call.version < _CLIP_BY_INPUT:
        low = call.float_attribute("min", -math.inf)
        high = call.float_attribute("max", math.inf)
        return np.asarray(np.minimum(np.maximum(values, low), high), values.dtype)
    for slot, limit in ((1, np.maximum), (2, np.minimum)):
        bound = call.optional(slot)
        if bound is not None:
            if bound.size != 1 or bound.dtype != values.dtype:
                raise Unknown(f"a bound of Clip {call.node.label!r} is no number of the type of its input")
            values = limit(values, bound.reshape(()))
    return np.asarray(values)


def _where(call: Call) -> Array:
    condition, first, second = call.operand(0), call.operand(1), call.operand(2)
    if condition.dtype.kind != "b" or first.dtype != second.dtype:
        raise Unknown(f"Where {call.node.label!r} of {_words((condition, first, second))}")
    require_room(np.broadcast_shapes(condition.shape, first.shape, second.shape))
    return np.asarray(np.where(condition, first, second))


def _identity(call: Call) -> Array:
    return call.operand(0)


def _cast(call: Call) -> Array:
    target = attributes.get(call.node, "to", 0)
    if isinstance(target, str):  # before opset 6 the type was a word
        raise Unknown(f"Cast {call.node.label!r} names its type by a word")
    return _converted(call, _kind(call, int(target)))


def _cast_like(call: Call) -> Array:
    target = type_of(call.constants, call.node.input(1))
    return _converted(call, call.operand(1).dtype.kind if target is None else _kind(call, target))


def _reads_of_cast_like(node: Node, constants: Constants) -> Sequence[int]:
    return (0, 1) if type_of(constants, node.input(1)) is None else (0,)


def _kind(call: Call, target: int) -> str:
    if dtypes.is_float(target):
        return "f"
    if target in _INTEGERS:
        return "i"
    if target == _BOOL:
        return "b"
    raise Unknown(f"{call.node.op_type} {call.node.label!r} to {dtypes.type_name(target)}")


def _converted(call: Call, kind: str) -> Array:
    values = call.operand(0)
    if kind == values.dtype.kind:
        return values
    if kind == "b":
        return np.asarray(values != 0)
    if kind == "f":
        return values.astype(np.float64)
    if values.dtype.kind == "f":
        _require_certain(call, values)
    return values.astype(np.int64)


def _require_certain(call: Call, values: Float64) -> None:
    away = np.abs(values - np.rint(values))
    if not np.all(np.isfinite(values)) or np.any(
        (away > 0) & (away < _NEAR_AN_INTEGER * np.maximum(np.abs(values), 1))
    ):
        raise Unknown(f"{call.node.op_type} {call.node.label!r} cuts a float where rounding decides")


def _reads_of_dropout(node: Node, constants: Constants) -> Sequence[int]:
    return (0, 2)  # not the ratio


def _dropout(call: Call) -> Array:
    """What comes in: only the forms that infer are known, and only the first output."""
    if call.version >= _DROPOUT_BY_INPUT:
        training = call.optional(2)
        infers = training is None or not np.any(training)
    else:
        infers = call.version >= _DROPOUT_ALWAYS_INFERS or bool(call.int_attribute("is_test", 0))
    if not infers:
        raise Unknown(f"Dropout {call.node.label!r} trains")
    return call.operand(0)


_BROADCAST = ("broadcast", "axis")
OPERATORS: dict[str, Operator] = {
    **{name: Operator(_arithmetic) for name in _FLOAT},
    **{name: Operator(_arithmetic, _BROADCAST) for name in ("Add", "Sub", "Mul", "Div", "Pow")},
    **{name: Operator(_comparison, _BROADCAST) for name in COMPARISONS},
    **{name: Operator(_logic, _BROADCAST) for name in LOGIC},
    "Clip": Operator(_clip, ("min", "max")),
    "Where": Operator(_where),
    "Identity": Operator(_identity),
    "Cast": Operator(_cast, ("to", "saturate", "round_mode")),
    "CastLike": Operator(_cast_like, ("saturate", "round_mode"), _reads_of_cast_like),
    "Dropout": Operator(_dropout, ("ratio", "is_test", "seed"), _reads_of_dropout),
}
