"""The planner's working view: the graph as it will be after the edits decided so far. The model itself is not touched.

Two things change during planning. A node is *bypassed*: its output becomes its data input. And a *slot* collects an
affine: the output of an operator with weights, or one constant operand. Affines that meet in one slot compose in float64
and are rounded once, when the new tensor is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from normfold.affine.algebra import Affine
from normfold.affine.reasons import Refused
from normfold.model.constants import Constants
from normfold.model.graph import Node, Use, Value
from normfold.model.shapes import Shapes
from normfold.model.tensors import TensorSource

_SEE_DIMENSIONS_ONLY = ("Shape", "Size")

# Slots of an operator's own weights: behind it, in front of its data input, and what its padding is filled with (a shift
# without a scale). Other slots are input numbers.
OUTPUT = -1
INPUT = -2
BORDER = -3
INTERNAL = (OUTPUT, INPUT, BORDER)


class Slot(NamedTuple):
    """A place that can take an affine: a node and an input number, or one of `INTERNAL`."""

    node: Node
    operand: int

    @property
    def key(self) -> tuple[int, int]:
        """Identity of the slot."""
        return id(self.node), self.operand


@dataclass(frozen=True, slots=True, eq=False)
class Absorption:
    """An affine goes into a slot. `adds_node` if that makes a new Add necessary."""

    slot: Slot
    affine: Affine
    adds_node: bool = False


def sees_elements(use: Use) -> bool:
    """Whether a reader would notice other elements of the same shape."""
    return bool(use.node.domain) or use.node.op_type not in _SEE_DIMENSIONS_ONLY


class Draft:
    """Constants, shapes, and the edits so far."""

    def __init__(self, constants: Constants, shapes: Shapes) -> None:
        self.constants = constants
        self.shapes = shapes
        self.slots: dict[tuple[int, int], tuple[Slot, Affine]] = {}
        self.bypassed: dict[int, tuple[Node, Value]] = {}  # by id of the node: the node, and what replaces its output
        self._source: dict[int, Value] = {}
        self._uses: dict[int, list[Use]] = {}
        self._output: dict[int, Value] = {}
        self._positions: dict[int, dict[int, int]] = {}  # by scope: place of each node in execution order

    def root(self, value: Value) -> Value:
        """The value that stands where `value` stood."""
        path: list[Value] = []
        while id(value) in self._source:
            path.append(value)
            value = self._source[id(value)]
        for item in path:
            self._source[id(item)] = value
        return value

    def uses(self, value: Value) -> list[Use]:
        """Who reads a value, bypassed nodes left out."""
        root = self.root(value)
        return self._uses.get(id(root), root.uses)

    def readers(self, value: Value) -> list[Use]:
        """Who sees the elements of a value: everybody who reads it but Shape and Size, which see its dimensions only."""
        return [use for use in self.uses(value) if sees_elements(use)]

    def output_of(self, value: Value) -> Value | None:
        """The graph output that a value is or became, if any."""
        root = self.root(value)
        return self._output.get(id(root), root if root.is_output else None)

    def pending(self, node: Node, operand: int = OUTPUT) -> Affine | None:
        """What a slot has collected."""
        entry = self.slots.get((id(node), operand))
        return None if entry is None else entry[1]

    def position(self, node: Node) -> int:
        """The place of a node in the execution order of its scope."""
        places = self._positions.get(id(node.scope))
        if places is None:
            places = self._positions[id(node.scope)] = {id(n): i for i, n in enumerate(node.scope.nodes)}
        return places[id(node)]

    def is_gone(self, node: Node) -> bool:
        """Whether the node is bypassed."""
        return id(node) in self.bypassed

    def absorb(self, absorptions: Iterable[Absorption]) -> None:
        """Commit affines to their slots."""
        for item in absorptions:
            before = self.pending(item.slot.node, item.slot.operand)
            if before is None:
                affine = item.affine
            elif item.slot.operand == INPUT:
                affine = item.affine.then(before)  # it comes from further in front
            else:
                affine = before.then(item.affine)
            self.slots[item.slot.key] = (item.slot, affine)

    @contextmanager
    def trial(self, absorptions: Iterable[Absorption]) -> Iterator[None]:
        """The slots as they would be with some more absorptions, for as long as it lasts."""
        wanted = list(absorptions)
        before = {item.slot.key: self.slots.get(item.slot.key) for item in wanted}
        self.absorb(wanted)
        try:
            yield
        finally:
            for key, entry in before.items():
                if entry is None:
                    self.slots.pop(key, None)
                else:
                    self.slots[key] = entry

    def bypass(self, node: Node, data: Value) -> None:
        """Take a node out; `data` is its data input."""
        root, gone = self.root(data), node.output
        remaining = [use for use in self.uses(root) if use.node is not node]
        inherited = self.uses(gone)
        output = self.output_of(root) or self.output_of(gone)
        self._uses[id(root)] = inherited if not remaining else remaining + inherited
        self._source[id(gone)] = root
        if output is not None:
            self._output[id(root)] = output
        self.bypassed[id(node)] = (node, root)
        # What its own slots had collected was part of its meaning.
        for operand in (*INTERNAL, *range(len(node.inputs))):
            self.slots.pop((id(node), operand), None)

    def parameter(self, node: Node, operand: int) -> TensorSource:
        """The constant in an input slot.

        Raises:
            Refused: `dynamic-params`, `sparse`, `overridable`, `quantised`, `computed-stats`.
        """
        value = node.input(operand)
        if value is None:
            raise Refused("ill-formed", f"{node.op_type} {node.label!r} lacks input {operand}", node.label)
        source = self.constants.get(value)
        if source is None:
            raise self._not_constant(node, value)
        return source

    def _not_constant(self, node: Node, value: Value) -> Refused:
        if self.constants.is_sparse(value):
            return Refused("sparse", f"{value.name!r} is stored as a sparse tensor", node.label)
        return not_constant(node, value)


def not_constant(node: Node, value: Value) -> Refused:
    """Why a parameter is no constant."""
    producer = value.producer
    if value.exposed:
        return Refused("overridable", f"{value.name!r} is an initializer that a caller may override", node.label)
    if producer is not None and producer.op_type == "DequantizeLinear":
        for part in producer.inputs:
            if part is not None and part.exposed:
                return Refused("overridable", f"{part.name!r} is an initializer that a caller may override", node.label)
        return Refused("quantised", f"{value.name!r} is a quantised weight", producer.label)
    return Refused("dynamic-params", f"{value.name!r} is not a constant", node.label)
