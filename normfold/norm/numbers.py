"""How long dimensions are, where the file does not say: every unknown extent gets a prime of its own.

A computation of sizes, `Reshape(x, Concat(Shape(x)[0], 32, -1))` or a division by the number of elements, is then plain
arithmetic, and two different extents never agree by chance. What depends on such a number is found out by the
confirmation, which tries other ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normfold.model import attributes, dtypes
from normfold.model.constants import shape_part, slice_bounds, slice_index
from normfold.model.graph import Node, Value
from normfold.model.shapes import Dim, Shapes

Numbers = NDArray[Any]  # of Python integers, or float64
_DEPTH = 24
_MOST = 64  # elements of a tensor of sizes
_FIRST_PRIME = 1_000_003
# Sizes that are known because the tensor was met in a frame.
Known = Callable[[Value], "list[int] | None"]


class Extents:
    """Numbers for the dimensions of tensors, and for what is computed of them.

    Args:
        shapes: of the model.
    """

    def __init__(self, shapes: Shapes) -> None:
        self.shapes = shapes
        self._primes: dict[object, int] = {}
        self._last = _FIRST_PRIME - 2

    def number(self, dim: Dim, owner: Value, position: int) -> int:
        """The extent of one dimension; the same symbol always has the same."""
        if isinstance(dim, int):
            return dim
        key: object = dim if dim is not None else (id(owner), position)
        if key not in self._primes:
            self._primes[key] = self._next_prime()
        return self._primes[key]

    def is_made_up(self, number: int) -> bool:
        """Whether a number stands for an unknown extent, or has one as a factor."""
        return any(number % prime == 0 for prime in self._primes.values())

    def of(self, value: Value) -> list[int] | None:
        """The extents of a tensor; None if its rank is unknown."""
        dims = self.shapes.dims(value)
        return None if dims is None else [self.number(dim, value, i) for i, dim in enumerate(dims)]

    def _next_prime(self) -> int:
        number = self._last + 2
        while any(number % divisor == 0 for divisor in range(3, math.isqrt(number) + 1, 2)):
            number += 2
        self._last = number
        return number

    def numbers(self, value: Value | None, known: Known) -> Numbers | None:
        """The elements of a small tensor that is computed of sizes and constants alone."""
        return self._numbers(value, known, 0, {})

    def _numbers(self, value: Value | None, known: Known, depth: int, done: dict[int, Numbers]) -> Numbers | None:
        """As above; `done` are those met on the way, for a chain of x·x reaches x over every path."""
        if value is None or depth > _DEPTH:
            return None
        if id(value) in done:
            return done[id(value)]
        source = self.shapes.constants.get(value)
        if source is not None:
            if math.prod(source.dims) > _MOST:
                return None
            array = self.shapes.constants.array(value)
            return None if array is None else _plain(array)
        node = value.producer
        rule = None if node is None or node.domain else _RULES.get(node.op_type)
        if node is None or rule is None:
            return None
        if rule is _shape or rule is _size:
            return self._of_tensor(node, rule, known)
        operands: list[Numbers | None] = []
        for item in node.inputs:
            operands.append(None if item is None else self._numbers(item, known, depth + 1, done))
            if item is not None and operands[-1] is None:
                return None  # the others are not worth the way: most that is asked about is data, and has no numbers
        try:
            found = rule(node, operands) if operands else None
        except (ValueError, IndexError, TypeError, ZeroDivisionError, OverflowError):
            return None
        if found is not None:
            done[id(value)] = found
        return found

    def _of_tensor(self, node: Node, rule: Callable[..., Numbers | None], known: Known) -> Numbers | None:
        tensor = node.input(0)
        extents = None if tensor is None else known(tensor) or self.of(tensor)
        return None if extents is None else rule(node, extents)


def _plain(array: NDArray[Any]) -> Numbers | None:
    if array.dtype.kind in "iu":
        return array.astype(object)
    return array.astype(np.float64) if array.dtype.kind == "f" or array.dtype.name == "bfloat16" else None


def _shape(node: Node, extents: list[int]) -> Numbers | None:
    return None if attributes.unexpected(node, ("start", "end")) else np.array(extents, object)[shape_part(node)]


def _size(node: Node, extents: list[int]) -> Numbers | None:
    return None if attributes.unexpected(node, ()) else np.array(math.prod(extents), object)


def _same(node: Node, operands: list[Numbers]) -> Numbers | None:
    return None if attributes.unexpected(node, ()) else operands[0]


def _cast(node: Node, operands: list[Numbers]) -> Numbers | None:
    target = attributes.get(node, "to", 0)
    if attributes.unexpected(node, ("to", "saturate", "round_mode")):
        return None
    if dtypes.is_float(target):
        return operands[0].astype(np.float64)
    is_integer = operands[0].dtype == object
    return operands[0] if is_integer and dtypes.type_name(target) in ("INT64", "INT32") else None


def _vector(node: Node, operands: list[Numbers]) -> Numbers | None:
    return None if attributes.unexpected(node, ("axis", "axes")) else operands[0].reshape(-1)


def _squeezed(node: Node, operands: list[Numbers]) -> Numbers | None:
    return operands[0].reshape(()) if operands[0].size == 1 else _vector(node, operands)


def _reshape(node: Node, operands: list[Numbers]) -> Numbers | None:
    if attributes.unexpected(node, ("allowzero",)):
        return None
    return operands[0].reshape([int(size) for size in operands[1].reshape(-1)])


def _concat(node: Node, operands: list[Numbers]) -> Numbers | None:
    if attributes.unexpected(node, ("axis",)) or any(o.ndim != 1 for o in operands):
        return None
    return np.concatenate(operands)


def _gather(node: Node, operands: list[Numbers]) -> Numbers | None:
    data, indices = operands
    if attributes.unexpected(node, ("axis",)) or data.ndim != 1:
        return None
    return np.asarray(data[indices.astype(np.int64)], data.dtype)


def _slice(node: Node, operands: list[Numbers]) -> Numbers | None:
    if attributes.unexpected(node, ("axes", "ends", "starts")):
        return None
    bounds = slice_bounds(node, [None if o is None else [int(item) for item in o.reshape(-1)] for o in operands[1:]])
    if len(bounds) != 1 or operands[0].ndim != 1:
        return None
    return operands[0][slice_index(1, bounds)[0]]


def _arithmetic(node: Node, operands: list[Numbers]) -> Numbers | None:
    if attributes.unexpected(node, ()):
        return None
    a, b = operands
    integer = a.dtype == object and b.dtype == object
    if (a.dtype == object) != (b.dtype == object):
        return None
    if node.op_type == "Div":
        return _quotient(a, b) if integer else np.asarray(a / b)
    return np.asarray({"Add": np.add, "Sub": np.subtract, "Mul": np.multiply}[node.op_type](a, b))


def _quotient(a: Numbers, b: Numbers) -> Numbers | None:
    """A quotient of integers, where nothing is rounded."""
    if any(int(x) % int(y) for x, y in np.broadcast(a, b)):
        return None
    return np.asarray(a // b)


def _product(node: Node, operands: list[Numbers]) -> Numbers | None:
    if attributes.unexpected(node, ("axes", "keepdims")) or operands[0].ndim > 1:
        return None
    total = np.multiply.reduce(operands[0].reshape(-1))
    return np.array([total] if attributes.get(node, "keepdims", 1) else total, operands[0].dtype)


def _root(node: Node, operands: list[Numbers]) -> Numbers | None:
    if operands[0].dtype == object or attributes.unexpected(node, ()):
        return None
    return np.asarray(np.sqrt(operands[0]) if node.op_type == "Sqrt" else 1.0 / operands[0])


_RULES: Mapping[str, Callable[..., Numbers | None]] = {
    "Shape": _shape,
    "Size": _size,
    "Identity": _same,
    "Cast": _cast,
    "Unsqueeze": _vector,
    "Squeeze": _squeezed,
    "Reshape": _reshape,
    "Concat": _concat,
    "Gather": _gather,
    "Slice": _slice,
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _arithmetic),
    "ReduceProd": _product,
    **dict.fromkeys(("Sqrt", "Reciprocal"), _root),
}
