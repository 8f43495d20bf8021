"""The planner's working view: the graph as it will be after the edits decided so far. The model itself is not touched.

Three things change during planning. A node is *bypassed*: its output becomes its data input. A *slot* collects an
affine: the output of an operator with weights, or one constant operand. Affines that meet in one slot compose in float64
and are rounded once, when the new tensor is written. Where such a slot belongs to an affine that is read, it counts as
it will be stored. And several operators are *merged* into one of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, NamedTuple

from normfold.affine.algebra import Affine
from normfold.affine.reasons import Refused
from normfold.model import attributes
from normfold.model.constants import Constants
from normfold.model.graph import Node, Use, Value
from normfold.model.shapes import Shapes
from normfold.model.tensors import TensorSource

# By operator: the operand of which only the shape or the type matters.
_WITHOUT_ELEMENTS = {"Shape": 0, "Size": 0, "EyeLike": 0, "RandomNormalLike": 0, "RandomUniformLike": 0, "CastLike": 1}

# Slots of an operator's own weights: behind it, in front of its data input, and what its padding is filled with (a shift
# without a scale). Other slots are input numbers.
OUTPUT = -1
INPUT = -2
BORDER = -3
# One more channel that is 1 everywhere, behind a Conv and in front of one: its shift holds what the weights of it are.
UNIT_OUT = -4
UNIT_IN = -5
INTERNAL = (OUTPUT, INPUT, BORDER, UNIT_OUT, UNIT_IN)


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


@dataclass(frozen=True, slots=True, eq=False)
class Merge:
    """Several linear operators become one of them.

    Args:
        kept: the operator that stays and makes the output of `root` from now on.
        root: the last of those that go: a sum of branches, or the second of two operators in a row.
        dropped: the others that go; nobody but these operators reads what they make.
        parameters: what stands in the input slots of `kept`; a bias among them is zero, `affine` holds the real one.
        affine: what the slot of its weights holds from the start.
        attributes: new attributes of `kept`; None removes one.
        growth: what becomes larger by it, "" for nothing.
        onto: what stands for the output of `root`, None for that of `kept`.
        crossed: nodes that stay between `kept` and `root`.
    """

    kept: Node
    root: Node
    dropped: tuple[Node, ...]
    parameters: Mapping[int, TensorSource]
    affine: Affine
    attributes: Mapping[str, Any] = field(default_factory=dict)
    growth: str = ""
    onto: Value | None = None
    crossed: tuple[Node, ...] = ()


def after_another(before: Merge, merge: Merge) -> Merge:
    """A merge into an operator that had been merged into: what it does not change stays as the first one left it."""
    return replace(merge, attributes={**before.attributes, **merge.attributes})


def sees_elements(use: Use) -> bool:
    """Whether a reader would notice other elements of the same shape and type."""
    return reads_elements(use.node, use.slot)


def reads_elements(node: Node, slot: int) -> bool:
    """Whether an operator looks at the elements of one of its inputs, not only at their shape or type."""
    return _WITHOUT_ELEMENTS.get(node.op_type) != slot or bool(node.domain)


class Draft:
    """Constants, shapes, and the edits so far."""

    def __init__(self, constants: Constants, shapes: Shapes) -> None:
        self.constants = constants
        self.shapes = shapes
        self.slots: dict[tuple[int, int], tuple[Slot, Affine]] = {}
        self.bypassed: dict[int, tuple[Node, Value]] = {}  # by id of the node: the node, and what replaces its output
        self.dropped: dict[int, Node] = {}  # nodes that go without a replacement, by identity
        self.merges: dict[int, Merge] = {}  # by identity of the node that stays
        self._source: dict[int, Value] = {}
        self._uses: dict[int, dict[Use, None]] = {}  # in order; a set, because one tensor may have very many readers
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

    def uses(self, value: Value) -> Collection[Use]:
        """Who reads a value, bypassed nodes left out."""
        root = self.root(value)
        return self._uses.get(id(root), root.uses)

    def readers(self, value: Value) -> Iterator[Use]:
        """Who sees the elements of a value: everybody who reads it but Shape and Size, which see its dimensions only."""
        return filter(sees_elements, self.uses(value))

    def restrict(self, value: Value, uses: Iterable[Use]) -> None:
        """From now on only these count as readers of a value: for an affine that stands between it and them alone."""
        self._uses[id(self.root(value))] = dict.fromkeys(uses)

    def only_reader(self, value: Value) -> Use | None:
        """The one that sees the elements of a value, None if there are none or several."""
        first, second = (*islice(self.readers(value), 2), None, None)[:2]
        return first if second is None else None

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
        """Whether the node is bypassed or dropped."""
        return id(node) in self.bypassed or id(node) in self.dropped

    def attribute(self, node: Node, name: str, default: Any) -> Any:
        """The value of an attribute as it will be, or `default`."""
        merge = self.merges.get(id(node))
        if merge is not None and name in merge.attributes:
            value = merge.attributes[name]
            return default if value is None else value
        return attributes.get(node, name, default)

    def made(self, node: Node) -> Value:
        """The value of the original graph that has the shape of what a node makes from now on."""
        merge = self.merges.get(id(node))
        return node.output if merge is None or merge.onto is not None else merge.root.output

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
        inherited = self._uses.pop(id(gone)) if id(gone) in self._uses else dict.fromkeys(gone.uses)
        output = self.output_of(root) or self.output_of(gone)
        remaining = self._stop_reading(node, root)
        if remaining:
            remaining |= inherited
        else:
            self._uses[id(root)] = inherited
        self._source[id(gone)] = root
        if output is not None:
            self._output[id(root)] = output
        self.bypassed[id(node)] = (node, root)
        self._forget_slots(node)

    def _forget_slots(self, node: Node) -> None:
        """What the slots of a node had collected was part of its meaning."""
        for operand in (*INTERNAL, *range(len(node.inputs))):
            self.slots.pop((id(node), operand), None)

    def merge(self, merge: Merge) -> None:
        """Commit a merge."""
        for node in (*merge.dropped, merge.root):
            for value in node.inputs:
                if value is not None:
                    self._stop_reading(node, self.root(value))
            self._forget_slots(node)
        self._forget_slots(merge.kept)  # the merge was made of what it had collected
        self.dropped |= {id(node): node for node in merge.dropped}
        before = self.merges.get(id(merge.kept))
        merge = merge if before is None else after_another(before, merge)
        self.merges[id(merge.kept)] = merge
        slot = Slot(merge.kept, OUTPUT)
        self.slots[slot.key] = (slot, merge.affine)
        self.bypass(merge.root, merge.kept.output if merge.onto is None else merge.onto)

    def _stop_reading(self, node: Node, root: Value) -> dict[Use, None]:
        """Who is left that reads a value without a node, for the draft to keep."""
        uses = self._uses.get(id(root))
        if uses is None:
            uses = self._uses[id(root)] = dict.fromkeys(root.uses)
        for slot in range(len(node.inputs)):
            uses.pop(Use(node, slot), None)
        return uses

    def parameter(self, node: Node, operand: int) -> TensorSource:
        """The constant in an input slot.

        Raises:
            Refused: `dynamic-params`, `sparse`, `overridable`, `quantised`, `computed-stats`.
        """
        merge = self.merges.get(id(node))
        if merge is not None and operand in merge.parameters:
            return merge.parameters[operand]
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
