"""One use of an operator on constants, and how the table of operators describes what it accepts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from normfold.model import attributes, dtypes
from normfold.model.computed import require_values
from normfold.model.graph import Node
from normfold.model.tensors import Array, TensorSource, Unreadable, Values

_LONGEST_LIST = 4096
# Results that are made at once, integers and booleans above all, have at most so many elements.
SMALL_LIMIT = 1 << 22


@dataclass(frozen=True, slots=True)
class Call:
    """A node, its operands (None where one is left out), and which output is wanted."""

    node: Node
    operands: tuple[TensorSource | None, ...]
    slot: int = 0

    @property
    def version(self) -> int:
        """The opset by which the node is read."""
        return self.node.scope.version

    def source(self, slot: int) -> TensorSource:
        """An operand that holds numbers.

        Raises:
            Unreadable: it does not, or is left out.
        """
        found = self.optional(slot)
        if found is None:
            raise Unreadable(f"{self.node.op_type} lacks input {slot}")
        return require_values(found)

    def optional(self, slot: int) -> TensorSource | None:
        """An operand, None where it is left out."""
        return self.operands[slot] if slot < len(self.operands) else None

    def sources(self) -> list[TensorSource]:
        """All operands, none of which may be left out."""
        return [self.source(slot) for slot in range(len(self.operands))]

    def small(self, slot: int) -> Array:
        """The values of an operand that is computed with at once.

        Raises:
            Unreadable: as `source`, or too large.
        """
        found = self.source(slot)
        if math.prod(found.dims) > SMALL_LIMIT:
            raise Unreadable("too large")
        return found.array()

    def ints(self, slot: int) -> list[int]:
        """An operand that is a list of integers.

        Raises:
            Unreadable: as `source`, or too long.
        """
        found = self.source(slot)
        if math.prod(found.dims) > _LONGEST_LIST:
            raise Unreadable("too long")
        values = found.array()
        if values.dtype.kind not in "iu":
            raise Unreadable("no integers")
        return [int(item) for item in values.reshape(-1)]

    def optional_ints(self, slot: int) -> list[int] | None:
        """As `ints`, None where the operand is left out."""
        return None if self.optional(slot) is None else self.ints(slot)

    def number(self, slot: int) -> float:
        """An operand that is one number."""
        return float(np.asarray(self.small(slot), np.float64).reshape(()))

    def int_attribute(self, name: str, default: int) -> int:
        """An integer attribute."""
        return int(attributes.get(self.node, name, default))

    def float_attribute(self, name: str, default: float) -> float:
        """A float attribute: the stored float32 value, widened."""
        return float(np.float32(attributes.get(self.node, name, default)))

    def listed(self, name: str, slot: int) -> list[int] | None:
        """Integers that newer opsets have as an input and older ones as an attribute; None where both are left out."""
        given = self.optional_ints(slot)
        return attributes.ints(self.node, name) if given is None else given


Evaluate = Callable[[Call], TensorSource | None]


@dataclass(frozen=True, slots=True)
class Operator:
    """How an operator is evaluated.

    Args:
        evaluate: the constant that it makes, None if it cannot tell.
        attributes: those that it reads; all others must have their default.
        outputs: how many of the outputs it can make; 0 means all.
    """

    evaluate: Evaluate
    attributes: tuple[str, ...] = ()
    outputs: int = 1


def is_float(source: TensorSource) -> bool:
    """Whether arithmetic on it is carried in float64."""
    return dtypes.is_float(source.data_type)


def small_values(values: Array, data_type: int) -> TensorSource:
    """Values that were computed at once."""
    return Values(np.asarray(values), data_type)


def require_small(*dims: tuple[int, ...]) -> None:
    """What operands of these shapes broadcast to may be computed at once.

    Raises:
        Unreadable: too large.
        ValueError: they do not broadcast.
    """
    if math.prod(np.broadcast_shapes(*dims)) > SMALL_LIMIT:
        raise Unreadable("too large")
