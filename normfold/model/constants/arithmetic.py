"""Elementwise operators on constants.

Floats are carried in float64; integers are computed in their own type. A comparison or a rounding jumps, so it is
evaluated only where no arithmetic is behind its operands: half a unit in the last place would decide.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from normfold.model import attributes, dtypes
from normfold.model.computed import arithmetic, elementwise, is_exact, moved, settled
from normfold.model.constants.call import Call, Operator, is_float, require_small, small_values
from normfold.model.tensors import Array, Float64, TensorSource, Unreadable

_BOOL = dtypes.onnx_dtype(np.dtype(bool))
_NUMPY_BROADCAST = 7  # before this opset, operands stretched only by the attributes `broadcast` and `axis`


def folded(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """An operator with any number of operands."""

    def apply(first: Array, *rest: Array) -> Any:
        for part in rest:
            first = function(first, part)
        return first

    return apply


def mean(*parts: Array) -> Any:
    """Of any number of operands, element by element."""
    return folded(np.add)(*parts) / len(parts)


def _sigmoid(x: Float64) -> Any:
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


def _softplus(x: Float64) -> Any:
    return np.logaddexp(x, 0.0)


def _softsign(x: Float64) -> Any:
    return x / (1 + np.abs(x))


_FLOAT: dict[str, Callable[..., Any]] = {
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
    "Log": np.log,
    "Sin": np.sin,
    "Cos": np.cos,
    "Tanh": np.tanh,
    "Sigmoid": _sigmoid,
    "Softplus": _softplus,
    "Softsign": _softsign,
    "Relu": lambda x: np.maximum(x, 0.0),
    "Max": folded(np.maximum),
    "Min": folded(np.minimum),
    "Sum": folded(np.add),
    "Mean": mean,
}
_STEPS: dict[str, Callable[..., Any]] = {"Floor": np.floor, "Ceil": np.ceil, "Round": np.rint, "Sign": np.sign}


def quotient(a: Array, b: Array) -> Any:
    """Towards zero, as runtimes divide integers; `a` and `b` of one type.

    Raises:
        ValueError: by zero.
    """
    if not np.all(b):
        raise ValueError("division by zero")
    return (np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))).astype(a.dtype)


_INTEGER: dict[str, Callable[..., Any]] = {
    **{name: _FLOAT[name] for name in ("Add", "Sub", "Mul", "Neg", "Abs", "Max", "Min", "Sum")},
    "Mod": np.mod,
    "Div": quotient,
    "Sign": np.sign,
}
COMPARISONS: dict[str, Callable[..., Any]] = {
    "Equal": np.equal,
    "Less": np.less,
    "Greater": np.greater,
    "LessOrEqual": np.less_equal,
    "GreaterOrEqual": np.greater_equal,
}
LOGIC: dict[str, Callable[..., Any]] = {
    "And": np.logical_and,
    "Or": np.logical_or,
    "Xor": np.logical_xor,
    "Not": np.logical_not,
}


def _arithmetic(call: Call) -> TensorSource | None:
    operands, name = _stretched(call), call.node.op_type
    kind = operands[0].data_type
    if is_float(operands[0]):
        return settled(arithmetic(_FLOAT[name], operands, kind)) if name in _FLOAT else None
    if name not in _INTEGER or any(operand.data_type != kind for operand in operands):
        return None
    return _at_once(_INTEGER[name], operands, kind)


def _step(call: Call) -> TensorSource | None:
    operand = call.source(0)
    if not is_float(operand):
        return _arithmetic(call)
    return settled(arithmetic(_STEPS[call.node.op_type], (operand,), operand.data_type)) if is_exact(operand) else None


def _comparison(call: Call) -> TensorSource | None:
    operands = _stretched(call)
    if not all(is_exact(operand) for operand in operands):
        return None
    return _at_once(COMPARISONS[call.node.op_type], operands, _BOOL)


def _logic(call: Call) -> TensorSource | None:
    return _at_once(LOGIC[call.node.op_type], _stretched(call), _BOOL)


def _at_once(function: Callable[..., Any], operands: list[TensorSource], data_type: int) -> TensorSource:
    require_small(*(operand.dims for operand in operands))
    return small_values(function(*(operand.array() for operand in operands)), data_type)


def _stretched(call: Call) -> list[TensorSource]:
    """The operands, the second one with its dimensions where the attributes of old opsets put them."""
    operands = call.sources()
    if call.version >= _NUMPY_BROADCAST or "axis" not in call.node.attributes or len(operands) != 2:
        return operands
    rank = len(operands[0].dims)
    axis = call.int_attribute("axis", 0) % max(rank, 1)
    dims = operands[1].dims + (1,) * max(rank - axis - len(operands[1].dims), 0)
    second = moved(lambda values: values.reshape(dims), operands[1:], operands[1].data_type)
    if second is None:
        raise Unreadable("too large")
    return [operands[0], second]


def _clip(call: Call) -> TensorSource | None:
    operand = call.source(0)
    if not is_float(operand):
        return _clip_integers(call)
    low, high = _bound(call, "min", 1), _bound(call, "max", 2)
    return settled(arithmetic(lambda x: np.minimum(np.maximum(x, low), high), (operand,), operand.data_type))


def _clip_integers(call: Call) -> TensorSource:
    values = call.small(0)
    for slot, limit in ((1, np.maximum), (2, np.minimum)):
        if call.optional(slot) is not None:
            values = limit(values, call.small(slot))
    return small_values(values, call.source(0).data_type)


def _bound(call: Call, name: str, slot: int) -> float:
    unbounded = -math.inf if name == "min" else math.inf
    if call.version < 11:
        return float(attributes.get(call.node, name, unbounded))
    return call.number(slot) if call.optional(slot) is not None else unbounded


def _shaped(function: Callable[..., Any], *defaults: tuple[str, float]) -> Operator:
    """An activation with float attributes."""

    def evaluate(call: Call) -> TensorSource | None:
        operand = call.source(0)
        numbers = [call.float_attribute(name, default) for name, default in defaults]
        if not is_float(operand):
            return None
        return settled(arithmetic(lambda x: function(x, *numbers), (operand,), operand.data_type))

    return Operator(evaluate, tuple(name for name, _ in defaults))


def _leaky(x: Float64, alpha: float) -> Any:
    return np.where(x < 0, alpha * x, x)


def _elu(x: Float64, alpha: float) -> Any:
    return np.where(x < 0, alpha * np.expm1(np.minimum(x, 0.0)), x)


def _hard_sigmoid(x: Float64, alpha: float, beta: float) -> Any:
    return np.clip(alpha * x + beta, 0.0, 1.0)


def _cast(call: Call) -> TensorSource | None:
    return cast(call.source(0), call.int_attribute("to", 0))


def cast(source: TensorSource, target: int) -> TensorSource | None:
    """A constant in another element type, rounded as the model says; None for a type without arithmetic."""
    storage, stored = dtypes.numpy_dtype(target), dtypes.numpy_dtype(source.data_type)
    if target == source.data_type:
        return source
    if storage is None or stored is None:
        return None
    exact = is_exact(source)

    def convert(values: Array) -> Array:
        values = np.asarray(values)
        rounded = values if exact else dtypes.rounded(np.asarray(values, np.float64), source.data_type)
        return rounded.astype(storage)

    return settled(elementwise(convert, (source,), target, storage))


_BROADCAST = ("broadcast", "axis")
OPERATORS: dict[str, Operator] = {
    **{name: Operator(_arithmetic) for name in (*_FLOAT, "Mod")},
    **{name: Operator(_arithmetic, _BROADCAST) for name in ("Add", "Sub", "Mul", "Div", "Pow")},
    **{name: Operator(_step) for name in _STEPS},
    **{name: Operator(_comparison, _BROADCAST) for name in COMPARISONS},
    **{name: Operator(_logic, _BROADCAST) for name in LOGIC},
    "Clip": Operator(_clip, ("min", "max")),
    "LeakyRelu": _shaped(_leaky, ("alpha", 0.01)),
    "Elu": _shaped(_elu, ("alpha", 1.0)),
    "HardSigmoid": _shaped(_hard_sigmoid, ("alpha", 0.2), ("beta", 0.5)),
    "Cast": Operator(_cast, ("to",)),
}
