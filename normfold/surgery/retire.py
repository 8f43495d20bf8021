"""What is dead once the plan is carried out: constants, and the arithmetic on constants that made them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from normfold.affine.change import Change, NewParameter
from normfold.affine.draft import Draft, reads_elements, sees_elements
from normfold.model.graph import Node, Value
from normfold.model.load import FIRST_OVERRIDABLE_IR, Model


class Retirement:
    """The constants and operators whose last reader goes.

    A weight that is only measured from then on (`Shape`, the type operand of `CastLike`) goes as well where a tensor of its
    shape and type replaces it: that one can be measured instead. It has to take over the name.

    Args:
        model: the original; what its inlined calls left without a reader goes, too.
        draft: the planner's view of it after the last edit.
        changes: what becomes of the slots that took an affine.
    """

    def __init__(self, model: Model, draft: Draft, changes: Iterable[Change]) -> None:
        self.values: dict[int, Value] = {}  # by identity
        self.nodes: dict[int, Node] = {}  # by identity
        self._draft = draft
        self._lost: dict[int, int] = defaultdict(int)  # readings that a value lost, by identity
        self._lost_measures: dict[int, int] = defaultdict(int)  # of these, the ones that did not see its elements
        self._replaceable: set[int] = set()
        self._seen: dict[int, int] = {}  # how many readers see the elements of a value
        self._heirs = {id(root) for _, root in draft.bypassed.values()}  # they have the readers of what went
        gone = [*(node for node, _ in draft.bypassed.values()), *draft.dropped.values()]
        doubtful = [value for node in gone for value in self._forget(node, range(len(node.inputs)))]
        for change in changes:
            doubtful += self._forget(change.node, change.inputs)
            # Elsewhere a new tensor is a node right in front of its reader, perhaps behind whoever measures it.
            if model.ir_version >= FIRST_OVERRIDABLE_IR and not change.node.scope.is_function:
                self._replaceable |= {id(old) for old in self._replaced(change)}
        doubtful += model.unread
        self._spread(doubtful)

    def __contains__(self, value: Value) -> bool:
        return id(value) in self.values

    def is_measured(self, value: Value) -> bool:
        """Whether somebody goes on asking for the shape or the type of a value that goes."""
        return self._lost[id(value)] < len(value.uses)

    def has_same_form(self, old: Value, new: NewParameter) -> bool:
        """Whether two tensors have one shape and one type."""
        source = self._draft.constants.get(old)
        return source is not None and (source.dims, source.data_type) == (new.dims, new.data_type)

    def _replaced(self, change: Change) -> Iterator[Value]:
        for slot, parameter in change.inputs.items():
            old = change.node.input(slot)
            if old is not None and old.scope is change.node.scope and self.has_same_form(old, parameter):
                yield old

    def _forget(self, node: Node, slots: Iterable[int]) -> list[Value]:
        """What a node read in some slots loses that reading."""
        found: list[Value] = []
        for slot in slots:
            value = node.input(slot)
            if value is not None:
                self._lost[id(value)] += 1
                if not reads_elements(node, slot):
                    self._lost_measures[id(value)] += 1
                found.append(value)
        return found

    def _spread(self, doubtful: list[Value]) -> None:
        while doubtful:
            value = doubtful.pop()
            producer = value.producer
            if id(value) in self.values or not self._is_dead(value):
                continue
            self.values[id(value)] = value
            if producer is not None and id(producer) not in self.nodes:
                self.nodes[id(producer)] = producer
                self.values.update({id(other): other for other in producer.outputs if other is not None})
                doubtful += self._forget(producer, range(len(producer.inputs)))

    def _is_dead(self, value: Value) -> bool:
        made = [value] if value.producer is None else [other for other in value.producer.outputs if other is not None]
        return self._draft.constants.get(value) is not None and all(self._is_unread(other) for other in made)

    def _is_unread(self, value: Value) -> bool:
        if id(value) in self._heirs or value.is_output:
            return False
        if self._lost[id(value)] >= len(value.uses):
            return True
        if id(value) not in self._replaceable:
            return False
        if id(value) not in self._seen:
            self._seen[id(value)] = sum(map(sees_elements, value.uses))
        return self._lost[id(value)] - self._lost_measures[id(value)] >= self._seen[id(value)]
