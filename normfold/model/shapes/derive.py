"""Answers what shape and element type a value has."""

from __future__ import annotations

from normfold.model.constants import Constants, sparse_dims
from normfold.model.demand import Answers
from normfold.model.dtypes import MOST_AXES
from normfold.model.graph import Node, Value
from normfold.model.shapes.data import DATA_RULES
from normfold.model.shapes.dims import Dim, Dims, Hints, declared_dims, merged, no_hints
from normfold.model.shapes.table import rule_of
from normfold.model.shapes.types import ElementTypes

# Real shape arithmetic (Shape, Gather, Unsqueeze, Concat) is shallow; the bound keeps a made-up one off the stack.
_DATA_DEPTH = 32
_LARGEST = (1 << 63) - 1  # extent that a file can say


class Shapes:
    """Answers `dims(value)` and `data_type(value)`; remembers every answer.

    Args:
        constants: of the same model.
        hints: about inputs of functions and what hangs on calls, of which the graph itself says nothing.
    """

    def __init__(self, constants: Constants, hints: Hints | None = None) -> None:
        self.constants = constants
        self._hints = hints or no_hints
        constants.type_of = constants.type_of or self.data_type
        self._dims: Answers[Dims | None] = Answers(self._needed, self._moderate)
        self._types = ElementTypes(constants, self._hints)
        self._data: dict[int, list[Dim] | None] = {}
        self._data_depth = 0

    def rank(self, value: Value) -> int | None:
        """Number of dimensions, None if unknown."""
        dims = self.dims(value)
        return None if dims is None else len(dims)

    def dims(self, value: Value) -> Dims | None:
        """The dimensions of a value, None if even the rank is unknown."""
        return self._dims.get(value)

    def known(self, value: Value | None) -> Dims | None:
        """The dimensions already derived (for use inside the rules)."""
        return None if value is None else self._dims.known(value)

    def _needed(self, value: Value) -> list[Value]:
        node = value.producer
        rule = None if node is None or value.tensor is not None else rule_of(node)
        if node is None or rule is None:
            return []
        needed = [operand for operand in node.inputs[: rule.inputs] if operand is not None]
        if rule.shape_input is not None:
            needed += self._shape_sources(node.input(rule.shape_input))
        if rule.sources is not None:
            needed += [source for source in rule.sources(node, value.output_slot) if source is not None]
        return needed

    def _shape_sources(self, value: Value | None) -> list[Value]:
        """The tensors whose Shape a shape computation asks for."""
        found: list[Value] = []
        pending = [value]
        seen: set[int] = set()
        while pending and len(seen) < 64:
            current = pending.pop()
            node = current.producer if current is not None else None
            if current is None or node is None or id(current) in seen:
                continue
            seen.add(id(current))
            if node.op_type == "Shape" and not node.domain:
                found += [operand for operand in node.inputs[:1] if operand is not None]
            elif node.op_type in DATA_RULES and not node.domain:
                pending.extend(node.inputs)
        return found

    def _moderate(self, value: Value) -> Dims | None:
        """A rank that no array can have is not known: nothing could be computed for it."""
        dims = self._infer(value)
        return None if dims is not None and len(dims) > MOST_AXES else dims

    def _infer(self, value: Value) -> Dims | None:
        if value.tensor is not None and not value.exposed:
            return value.tensor.dims
        stored = sparse_dims(value)
        if stored is not None and not value.exposed:
            return stored
        if value.producer is None:
            return declared_dims(value.type) if value.type is not None else self._hints(value)[0]
        source = self.constants.get(value)
        if source is not None:
            return source.dims
        dims = self._derive(value.producer, value.output_slot)
        return merged(dims, self._hints(value)[0]) if dims is None or None in dims else dims

    def _derive(self, node: Node, slot: int) -> Dims | None:
        rule = rule_of(node)
        try:
            return None if rule is None else _possible(rule.derive(self, node, slot))
        except (ValueError, IndexError, TypeError, ZeroDivisionError):
            return None

    def data(self, value: Value | None) -> list[Dim] | None:
        """The elements of a small integer tensor as far as they are known: shapes computed from shapes."""
        if value is None:
            return None
        numbers = self.constants.ints(value)
        if numbers is not None:
            return list(numbers)
        if id(value) in self._data:
            return self._data[id(value)]
        node = value.producer
        rule = None if node is None or node.domain else DATA_RULES.get(node.op_type)
        if rule is None or node is None or self._data_depth > _DATA_DEPTH or node.is_bound_by_caller:
            return None
        self._data_depth += 1
        try:
            result = self._data[id(value)] = rule(self, node)
        finally:
            self._data_depth -= 1
        return result

    def data_type(self, value: Value) -> int | None:
        """The ONNX element type of a value, None if unknown."""
        return self._types.get(value)


def _possible(dims: Dims | None) -> Dims | None:
    """Without extents that no tensor can have: attributes may say anything, and what follows from them is not known."""
    if dims is None or not any(isinstance(dim, int) and not 0 <= dim <= _LARGEST for dim in dims):
        return dims
    return tuple(None if isinstance(dim, int) and not 0 <= dim <= _LARGEST else dim for dim in dims)
