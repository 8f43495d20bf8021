"""The part of a graph around norms that could work channels-last, as operators and tensors with layouts."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from normfold.model import attributes
from normfold.model.graph import Node, Scope, Value
from normfold.surgery.layout.operators import RANK, TO_FIRST, TO_LAST, Facts, Passage, passage
from normfold.surgery.layout.problem import Layout, Operation, Tensor
from normfold.targets.lowering import Constant, Lowering, Op, Y


@dataclass(frozen=True, slots=True, eq=False)
class GroupNorm:
    """A norm of images `[N, C, H, W]` for which there is a kernel that takes them as `[N, H, W, C]`.

    Args:
        x, y: what it reads and makes, both channels-first in the graph as it is.
        nodes: the nodes that it takes the place of; the last of them in execution order makes `y`.
        ops: what stands there if it works channels-last: nodes in execution order under placeholder names.
        reads, makes: the placeholders of `ops` for the turned `x` and `y`.
        constants: what `ops` read besides; placeholder names.
        gain: how many times the elements of `x` are moved less than by the second choice that the norm has.

    A Transpose moves every element once. The InstanceNormalization idiom takes three passes over the data, the kernel
    one; as nobody has measured how a pass compares with a Transpose there, one of the two is counted.
    """

    x: Value
    y: Value
    nodes: frozenset[Node]
    ops: tuple[Op, ...]
    reads: str
    makes: str
    constants: tuple[Constant, ...] = ()
    gain: float = 1.0


def candidate(lowering: Lowering, x: Value, y: Value, nodes: frozenset[Node], gain: float = 1.0) -> GroupNorm | None:
    """A lowering that stands between two Transposes, without them; None if it does not.

    Args:
        lowering: how the norm is written for its target.
        x: what its first Transpose reads; with an addition that goes into the operator, what is added to.
        y: what it makes.
        nodes: the nodes that it takes the place of.
        gain: as in `GroupNorm`.
    """
    inward = [op for op in lowering.nodes if _order(op) == TO_LAST]
    outward = [op for op in lowering.nodes if _order(op) == TO_FIRST]
    if len(inward) != 1 or len(outward) != 1 or outward[0].outputs != (Y,):
        return None
    (first,), (last,) = inward, outward
    ops = tuple(op for op in lowering.nodes if op is not first and op is not last)
    if any(first.inputs[0] in op.inputs or op.op_type == "Transpose" for op in ops):
        return None
    return GroupNorm(x, y, nodes, ops, first.outputs[0], last.inputs[0], lowering.constants, gain)


def _order(op: Op) -> tuple[int, ...] | None:
    return tuple(op.attributes.get("perm", ())) if op.op_type == "Transpose" and not op.domain else None


@dataclass(slots=True)
class Region:
    """What the choice is about.

    Args:
        operators: nodes with how they work channels-last, by their key.
        norms: by a name that is no such key.
        values: the tensors, by name.
        exits: Transposes of the graph that bring a tensor to channels-last, by its name.
        entries: the Transpose of the graph that makes a tensor from channels-last data, by its name.
    """

    operators: dict[str, tuple[Node, Passage]] = field(default_factory=dict)
    norms: dict[str, GroupNorm] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)
    exits: dict[str, list[Node]] = field(default_factory=dict)
    entries: dict[str, Node] = field(default_factory=dict)

    def problem(self, facts: Facts) -> tuple[list[Operation], list[Tensor]]:
        """The region as pure data."""
        weights = self._weights(facts)
        operations = [
            Operation(name, _names(node.input(slot) for slot in how.slots), _names(node.outputs))
            for name, (node, how) in self.operators.items()
        ]
        operations += [
            Operation(name, (norm.x.name,), (norm.y.name,), round(norm.gain * weights[norm.x.name]))
            for name, norm in self.norms.items()
        ]
        made = {name for operation in operations for name in operation.makes}
        tensors = [
            Tensor(name, weights[name], None if name in made else self._origin(name), self._needed(value))
            for name, value in self.values.items()
        ]
        return operations, tensors

    def _origin(self, name: str) -> Layout:
        return Layout.LAST if name in self.entries else Layout.FIRST

    def _needed(self, value: Value) -> frozenset[Layout]:
        """Who reads it besides the operators of the region: bodies of other nodes, callers, operators that cannot turn."""
        found = {Layout.FIRST} if value.is_output else set()
        for use in value.uses:
            if use.node in self.exits.get(value.name, ()):
                found.add(Layout.LAST)
            elif not self._follows(value, use.node, use.slot):
                found.add(Layout.FIRST)
        return frozenset(found)

    def _follows(self, value: Value, node: Node, slot: int) -> bool:
        """Whether a reader takes the value in the layout that is chosen for it; norms do so with their input alone."""
        known = self.operators.get(node.key)
        if known is not None:
            return slot in known[1].slots
        return any(node in norm.nodes and value is norm.x for norm in self.norms.values())

    def _weights(self, facts: Facts) -> dict[str, int]:
        """Elements, counted along the dimensions that are known for all tensors: a symbol is no number to compare with."""
        dims = {name: facts.shapes.dims(value) or (None,) * RANK for name, value in self.values.items()}
        known = [axis for axis in range(RANK) if all(isinstance(shape[axis], int) for shape in dims.values())]
        found = {}
        for name, shape in dims.items():
            count = 1
            for axis in known:
                size = shape[axis]
                count *= size if isinstance(size, int) else 1
            found[name] = max(count, 1)
        return found


def region_of(scope: Scope, facts: Facts, norms: Mapping[str, GroupNorm]) -> Region:
    """Everything that norms reach through operators that can work channels-last."""
    region = Region(norms=dict(norms))
    taken = {node: name for name, norm in norms.items() for node in norm.nodes}
    pending = deque(value for norm in norms.values() for value in (norm.x, norm.y))
    refused: set[Node] = set()
    while pending:
        value = pending.popleft()
        if value.name in region.values:
            continue
        region.values[value.name] = value
        neighbours = [use.node for use in value.uses]
        if value.producer is not None:
            neighbours.append(value.producer)
        for node in neighbours:
            if node in taken or node in refused or node.key in region.operators or node.scope is not scope:
                continue
            if _turns(node, value, region):
                continue
            how = passage(node, facts)
            if how is None:
                refused.add(node)
                continue
            region.operators[node.key] = node, how
            pending.extend(v for slot in how.slots if (v := node.input(slot)) is not None)
            pending.extend(v for v in node.outputs if v is not None)
    return region


def _turns(node: Node, value: Value, region: Region) -> bool:
    """Whether a node is a Transpose between the layouts; then it is noted, and the region ends there."""
    if node.op_type != "Transpose" or node.domain or node.is_bound_by_caller:
        return False
    order = tuple(attributes.ints(node, "perm") or ())
    if order == TO_LAST and node.input(0) is value:
        exits = region.exits.setdefault(value.name, [])
        exits += [node] if node not in exits else []
    elif order == TO_FIRST and node.outputs[0] is value:
        region.entries[value.name] = node
    else:
        return False
    return True


def _names(values: Iterable[Value | None]) -> tuple[str, ...]:
    return tuple(value.name for value in values if value is not None)
