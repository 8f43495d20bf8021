"""From the cheapest layouts to nodes: what is turned, what goes, and where Transposes stand."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from normfold.model import attributes
from normfold.model.constants import Constants
from normfold.model.graph import Node, Scope, Value
from normfold.model.shapes import Shapes
from normfold.model.tensors import NewTensor
from normfold.surgery.layout.operators import INT64, TO_FIRST, TO_LAST, Facts, Passage, Turned
from normfold.surgery.layout.problem import Assignment, Operation, assign, judged
from normfold.surgery.layout.region import GroupNorm, Region, region_of
from normfold.targets.lowering import MICROSOFT, Constant, Op, Rejected

Fresh = Callable[[str], str]

_NORM = "norm "  # in front of the caller's keys: no key of a node begins with it
_OPERATOR = "com.microsoft.GroupNorm"
_NUMPY_BROADCAST = 7  # the opset from which operands broadcast as numpy's do


@dataclass(frozen=True, slots=True)
class Insertion:
    """A new Transpose.

    Args:
        op: under names of the graph.
        node: the place, which counts also if the node goes; a norm that works channels-last stands where its result was made.
        behind: whether it goes behind that node, else in front of it.
    """

    op: Op
    node: Node
    behind: bool


@dataclass(slots=True, eq=False)
class LayoutPlan:
    """What a scope becomes. All names are names of the graph; a node keeps what is not said here.

    Args:
        norms: what takes the place of the nodes of a norm that works channels-last, by its key.
        rejected: why the other norms do not; they take their second choice and read and make what they did.
        replaced: nodes that work channels-last, and what they become.
        dropped: Transposes of the graph that go.
        inserted: Transposes that come; those at one node in this order.
        tensors: new float initializers, turned as they are read.
        constants: new initializers of norms, and integers.
        gone: names of tensors that are no longer made; what is declared about them goes too.
        domains: other domains that must be imported, with the version.
    """

    norms: dict[str, tuple[Op, ...]] = field(default_factory=dict)
    rejected: dict[str, Rejected] = field(default_factory=dict)
    replaced: dict[Node, Op] = field(default_factory=dict)
    dropped: list[Node] = field(default_factory=list)
    inserted: list[Insertion] = field(default_factory=list)
    tensors: list[NewTensor] = field(default_factory=list)
    constants: list[Constant] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    domains: dict[str, int] = field(default_factory=dict)


def plan_layout(
    scope: Scope, constants: Constants, shapes: Shapes, norms: Mapping[str, GroupNorm], fresh: Fresh
) -> LayoutPlan:
    """Which norms of a scope work channels-last, and all that has to follow.

    Moving data is what counts: the elements that Transposes bring into another layout, those of the graph included, and
    what a norm saves. The choice is the cheapest of all, so no more is moved than without it, and where it saves nothing
    everything stays; so does what hangs together with no norm.

    Args:
        scope: of a model that imports opset 7 or newer.
        constants, shapes: of the model.
        norms: candidates, by a key of the caller; their nodes are in the scope and are those of one norm each.
        fresh: makes names that nothing in the model has.
    """
    facts = Facts(constants, shapes)
    plan = LayoutPlan()
    names = {f"{_NORM}{key}": norm for key, norm in norms.items() if _is_eligible(scope, norm, facts)}
    region = region_of(scope, facts, names)
    operations, tensors = region.problem(facts)
    last = _around_norms(operations, assign(operations, tensors).last, names)
    _Writer(scope, region, judged(operations, tensors, last), plan, fresh).write()
    weights = {tensor.name: tensor.weight for tensor in tensors}
    for key, norm in norms.items():
        if key not in plan.norms:
            plan.rejected[key] = Rejected(_OPERATOR, "layout", _why(norm, weights.get(norm.x.name)))
    return plan


def _is_eligible(scope: Scope, norm: GroupNorm, facts: Facts) -> bool:
    return scope.version >= _NUMPY_BROADCAST and facts.is_image(norm.x) and facts.is_image(norm.y)


def _around_norms(operations: Sequence[Operation], last: Collection[str], norms: Collection[str]) -> set[str]:
    """The chosen operators that hang together with a chosen norm; what has none is not ours to change."""
    chosen = [operation for operation in operations if operation.name in last]
    sharing: dict[str, list[Operation]] = {}
    for operation in chosen:
        for name in (*operation.reads, *operation.makes):
            sharing.setdefault(name, []).append(operation)
    found: set[str] = set()
    pending = [operation for operation in chosen if operation.name in norms]
    while pending:
        operation = pending.pop()
        if operation.name in found:
            continue
        found.add(operation.name)
        pending += (item for name in (*operation.reads, *operation.makes) for item in sharing[name])
    return found


def _why(norm: GroupNorm, weight: int | None) -> str:
    if weight is None:
        return "its input is not proven to have four dimensions, or operands broadcast as before opset 7"
    saved = round(norm.gain * weight)
    return f"its Transposes do not cancel with those of its neighbours and move more than the {saved} elements that it saves"


class _Writer:
    """One choice, written down."""

    def __init__(
        self,
        scope: Scope,
        region: Region,
        chosen: Assignment,
        plan: LayoutPlan,
        fresh: Fresh,
    ) -> None:
        self.scope = scope
        self.region = region
        self.chosen = chosen
        self.plan = plan
        self.fresh = fresh
        self.places = {node: place for place, node in enumerate(scope.nodes)}
        self.made_last = self._made_last()
        self.read_last = self._read_last()
        self._last: dict[str, str] = {}

    def _made_last(self) -> set[str]:
        """The tensors that come channels-last."""
        found = set(self.region.entries)
        for key in self.chosen.last:
            if key in self.region.norms:
                found.add(self.region.norms[key].y.name)
            else:
                found.update(value.name for value in self.region.operators[key][0].outputs if value is not None)
        return found

    def _read_last(self) -> set[str]:
        """The tensors that operators read channels-last; Transposes of the graph left out."""
        found: set[str] = set()
        for key in self.chosen.last:
            if key in self.region.norms:
                found.add(self.region.norms[key].x.name)
            else:
                node, how = self.region.operators[key]
                found.update(node.proto.input[slot] for slot in how.slots)
        return found

    def write(self) -> None:
        """Fill the plan."""
        for name, value in self.region.values.items():
            self._turn(name, value)
        for key in sorted(self.chosen.last, key=self._place):  # a set has no order, and names and bytes must have one
            if key in self.region.norms:
                self._norm(key, self.region.norms[key])
            else:
                self._operator(*self.region.operators[key])
        self.plan.replaced = dict(sorted(self.plan.replaced.items(), key=lambda item: self.places[item[0]]))
        self.plan.inserted.sort(key=lambda item: self.places[item.node])
        if self.plan.norms or any(op.domain == MICROSOFT for op in self.plan.replaced.values()):
            self.plan.domains[MICROSOFT] = 1

    def _place(self, key: str) -> int:
        """Where an operator or a norm stands."""
        maker = self.region.norms[key].y.producer if key in self.region.norms else self.region.operators[key][0]
        assert maker is not None
        return self.places[maker]

    # --- tensors ---

    def _turn(self, name: str, value: Value) -> None:
        """Give a tensor that exists in another layout than before its names, and the Transposes it needs."""
        turned = name in self.chosen.turned
        if name in self.made_last:
            self._from_last(name, value, turned)
        elif turned:
            self._from_first(name, value)

    def _from_last(self, name: str, value: Value, turned: bool) -> None:
        entry, exits = self.region.entries.get(name), self.region.exits.get(name, [])
        if entry is not None:
            source = entry.input(0)
            assert source is not None
            self._last[name] = source.name
            if not turned:
                self.plan.dropped.append(entry)
        elif exits:
            self._last[name] = exits[0].output.name
            self.plan.dropped.append(exits.pop(0))
        for node in exits:
            self.plan.replaced[node] = Op("Identity", (self._name(name),), (node.output.name,))
        if not turned:
            self.plan.gone.append(name)
        elif entry is None:
            self._insert(value, self._name(name), name, TO_FIRST)

    def _from_first(self, name: str, value: Value) -> None:
        """A channels-last copy; where the graph has one and nobody else needs it, it stays where it is."""
        exits = self.region.exits.get(name, [])
        if name not in self.read_last:
            return
        if exits:
            self._last[name] = exits[0].output.name
            self.plan.dropped.append(exits[0])
            for node in exits[1:]:
                self.plan.replaced[node] = Op("Identity", (self._name(name),), (node.output.name,))
        self._insert(value, name, self._name(name), TO_LAST)

    def _insert(self, value: Value, source: str, target: str, order: tuple[int, ...]) -> None:
        op = Op("Transpose", (source,), (target,), {"perm": list(order)})
        maker = value.producer
        if maker is not None and maker.scope is self.scope:
            self.plan.inserted.append(Insertion(op, maker, behind=True))
            return
        readers = [use.node for use in value.uses if use.node.scope is self.scope]
        self.plan.inserted.append(Insertion(op, min(readers, key=self.places.__getitem__), behind=False))

    def _name(self, name: str) -> str:
        """The name of the channels-last form of a tensor."""
        if name not in self._last:
            self._last[name] = self.fresh(f"{name}.channels_last")
        return self._last[name]

    # --- operators ---

    def _operator(self, node: Node, how: Passage) -> None:
        inputs = list(node.proto.input)
        for slot in how.slots:
            inputs[slot] = self._name(inputs[slot])
        for slot, constant in how.constants.items():
            inputs[slot] = self._constant(inputs[slot], constant)
        given = {name: attributes.get(node, name, None) for name in node.attributes}
        outputs = tuple(self._name(name) if name else "" for name in node.proto.output)
        domain = node.domain if how.domain is None else how.domain
        merged: dict[str, Any] = {**given, **how.attributes}
        self.plan.replaced[node] = Op(how.op_type or node.op_type, tuple(inputs), outputs, merged, domain)

    def _constant(self, old: str, constant: Any) -> str:
        name = self.fresh(f"{old}.channels_last")
        if isinstance(constant, Turned):
            source = constant.source
            self.plan.tensors.append(NewTensor(name, source, constant.data_type, source.dims))
        else:
            kind = np.int64 if constant.data_type == INT64 else np.float64
            self.plan.constants.append(Constant(name, np.asarray(constant.values, kind), constant.data_type))
        return name

    def _norm(self, key: str, norm: GroupNorm) -> None:
        names = {norm.reads: self._name(norm.x.name), norm.makes: self._name(norm.y.name)}
        for constant in norm.constants:
            names[constant.name] = self.fresh(f"{norm.y.name}.{constant.name}")
            self.plan.constants.append(replace(constant, name=names[constant.name]))
        for op in norm.ops:
            for output in op.outputs:
                if output and output not in names:
                    names[output] = self.fresh(f"{norm.y.name}.{output}")
        self.plan.norms[key.removeprefix(_NORM)] = tuple(
            replace(op, inputs=_renamed(op.inputs, names), outputs=_renamed(op.outputs, names)) for op in norm.ops
        )


def _renamed(names: tuple[str, ...], new: Mapping[str, str]) -> tuple[str, ...]:
    """Placeholders get their names; a tensor of the graph comes as a subtype of str and may be called like one of them."""
    return tuple(new.get(name, name) if type(name) is str else str(name) for name in names)
