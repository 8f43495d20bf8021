"""One use of an operator on arrays, and how the table of operators describes what it accepts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normfold.model import attributes, dtypes
from normfold.model.constants import Constants
from normfold.model.graph import Node, Value
from normfold.norm.meaning import Float64

Array = NDArray[Any]

# What one array may hold. Hostile shapes are refused before memory is asked for.
SIZE_LIMIT = 1 << 25


class Unknown(Exception):
    """The evaluator cannot tell what a node computes; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Call:
    """A node and its operands: float64, int64 or bool arrays, None where one is left out or not needed."""

    node: Node
    operands: tuple[Array | None, ...]
    constants: Constants

    @property
    def version(self) -> int:
        """The opset of the standard domain by which the node is read."""
        return self.node.scope.version

    def optional(self, slot: int) -> Array | None:
        """An operand, None where it is left out."""
        return self.operands[slot] if slot < len(self.operands) else None

    def operand(self, slot: int) -> Array:
        """An operand that must be there.

        Raises:
            Unknown: it is left out.
        """
        found = self.optional(slot)
        if found is None:
            raise Unknown(f"{self.node.op_type} {self.node.label!r} lacks input {slot}")
        return found

    def all(self) -> list[Array]:
        """All operands, none of which may be left out."""
        return [self.operand(slot) for slot in range(len(self.operands))]

    def real(self, slot: int = 0) -> Float64:
        """An operand that must be there and hold floats."""
        found = self.operand(slot)
        if found.dtype.kind != "f":
            raise Unknown(f"{self.node.op_type} {self.node.label!r} reads no floats")
        return found

    def ints(self, slot: int) -> list[int] | None:
        """An operand that is a list of integers; None where it is left out."""
        found = self.optional(slot)
        if found is None:
            return None
        if found.dtype.kind != "i":
            raise Unknown(f"input {slot} of {self.node.op_type} {self.node.label!r} holds no integers")
        return [int(item) for item in found.reshape(-1)]

    def listed(self, name: str, slot: int = 1) -> list[int] | None:
        """Integers that newer opsets have as an input and older ones as an attribute; None where both are left out."""
        given = self.ints(slot)
        return attributes.ints(self.node, name) if given is None else given

    def int_attribute(self, name: str, default: int) -> int:
        """An integer attribute."""
        return int(attributes.get(self.node, name, default))

    def float_attribute(self, name: str, default: float) -> float:
        """A float attribute: the stored float32 value, widened."""
        return float(np.float32(attributes.get(self.node, name, default)))


Evaluate = Callable[[Call], Array | Sequence[Array | None]]
Reads = Callable[[Node, Constants], Sequence[int]]


@dataclass(frozen=True, slots=True)
class Operator:
    """How an operator is evaluated.

    Args:
        evaluate: the array that it makes, or one for every output, in their order; None for those that it cannot make.
        attributes: those that it reads; all others must have their default.
        reads: which inputs matter; None for all. The others are not evaluated and come as None.
        makes: the outputs that it can make; None for all.
        sum_output: of an operator that adds before it normalises: the output that is the sum. Where that is given, the
            operator is evaluated with it in the place of input 0, and without the inputs `added`.
        added: the inputs that are added to input 0.
    """

    evaluate: Evaluate
    attributes: tuple[str, ...] = ()
    reads: Reads | None = None
    makes: tuple[int, ...] | None = (0,)
    sum_output: int | None = None
    added: tuple[int, ...] = ()


def type_of(constants: Constants, value: Value | None) -> int | None:
    """The element type of a value, where the constants know the shapes that tell it."""
    return None if value is None or constants.type_of is None else constants.type_of(value)


def widened(values: Array) -> Array:
    """Any numbers as float64, int64 or bool.

    Raises:
        Unknown: another type, or an integer beyond int64.
    """
    if values.dtype.kind == "f" or values.dtype == dtypes.numpy_dtype(dtypes.BFLOAT16):
        return np.asarray(values, np.float64)
    if values.dtype.kind in "iu":
        if values.size and int(values.max()) > np.iinfo(np.int64).max:
            raise Unknown("an integer beyond int64")
        return np.asarray(values, np.int64)
    if values.dtype.kind != "b":
        raise Unknown(f"values of type {values.dtype}")
    return values


def require_room(extents: Sequence[int]) -> None:
    """An array of that shape may be made.

    Raises:
        Unknown: it is too large.
    """
    if math.prod(extents) > SIZE_LIMIT:
        raise Unknown(f"an array of shape {list(extents)} is too large")
