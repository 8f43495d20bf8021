"""Operators that take axes together. Sums are added pairwise, whatever the axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from normfold.norm.evaluate.call import Array, Call, Operator, Unknown
from normfold.norm.rows import mean_over, sum_over

_SUMS: dict[str, tuple[Callable[[Array], Any], Callable[[Array], Any]]] = {
    "ReduceSum": (lambda x: x, lambda total: total),
    "ReduceL1": (np.abs, lambda total: total),
    "ReduceL2": (lambda x: x * x, np.sqrt),
    "ReduceSumSquare": (lambda x: x * x, lambda total: total),
}
_UFUNCS: dict[str, np.ufunc] = {"ReduceMax": np.maximum, "ReduceMin": np.minimum, "ReduceProd": np.multiply}
# Those that do something to every element before they sum: what is left of it without axes is read differently.
_DISPUTED_WITHOUT_AXES = ("ReduceL1", "ReduceL2", "ReduceSumSquare")
_OF_INTEGERS = ("ReduceSum", *_UFUNCS)


def _reduce(call: Call) -> Array:
    values, name = call.operand(0), call.node.op_type
    if not values.size or not (values.dtype.kind == "f" or (values.dtype.kind == "i" and name in _OF_INTEGERS)):
        raise Unknown(f"{name} {call.node.label!r} of {values.dtype} {list(values.shape)}")
    axes = _axes(call, values.ndim)
    if axes is None:
        if name in _DISPUTED_WITHOUT_AXES:
            raise Unknown(f"runtimes differ in what {name} {call.node.label!r} does without axes")
        return values
    return _reduced(values, name, axes, keepdims=bool(call.int_attribute("keepdims", 1)))


def _axes(call: Call, rank: int) -> list[int] | None:
    """The axes, none of them negative; None where nothing is reduced."""
    axes = call.listed("axes")
    if not axes:
        return None if call.int_attribute("noop_with_empty_axes", 0) else list(range(rank))
    if any(not -rank <= axis < rank for axis in axes):
        raise Unknown(f"{call.node.op_type} {call.node.label!r} over axes {axes} of {rank}")
    return [axis % rank for axis in axes]


def _reduced(values: Array, name: str, axes: Sequence[int], *, keepdims: bool) -> Array:
    if name in _UFUNCS:
        return np.asarray(_UFUNCS[name].reduce(values, axis=tuple(axes), keepdims=keepdims, dtype=values.dtype))
    if not axes:  # of a scalar
        keepdims = True
    if name == "ReduceMean":
        return mean_over(values, axes, keepdims=keepdims)
    before, after = _SUMS[name]
    return np.asarray(after(sum_over(before(values), axes, keepdims=keepdims)))


def _global_average(call: Call) -> Array:
    values = call.real()
    if values.ndim < 3:
        raise Unknown(f"GlobalAveragePool {call.node.label!r} of rank {values.ndim}")
    return mean_over(values, range(2, values.ndim))


_ATTRIBUTES = ("axes", "keepdims", "noop_with_empty_axes")
OPERATORS: dict[str, Operator] = {
    **{name: Operator(_reduce, _ATTRIBUTES) for name in (*_SUMS, *_UFUNCS, "ReduceMean")},
    "GlobalAveragePool": Operator(_global_average),
}
