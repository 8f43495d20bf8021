"""What is dead once the plan is carried out: constants, and the arithmetic on constants that made them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from normfold.affine.change import Change
from normfold.affine.draft import Draft
from normfold.model.graph import Node, Value


class Retirement:
    """The constants and operators whose last reader goes.

    Args:
        draft: the planner's view after the last edit.
        changes: what becomes of the slots that took an affine.
        unread: values that have no reader any more for another reason.
    """

    def __init__(self, draft: Draft, changes: Iterable[Change], unread: Iterable[Value] = ()) -> None:
        self.values: dict[int, Value] = {}  # by identity
        self.nodes: dict[int, Node] = {}  # by identity
        self._draft = draft
        self._lost: dict[int, int] = defaultdict(int)  # readings that a value lost, by identity
        self._heirs = {id(root) for _, root in draft.bypassed.values()}  # they have the readers of what went
        gone = [*(node for node, _ in draft.bypassed.values()), *draft.dropped.values()]
        doubtful = [value for node in gone for value in self._forget(node.inputs)]
        for change in changes:
            doubtful += self._forget(change.node.input(slot) for slot in change.inputs)
        doubtful += unread
        self._spread(doubtful)

    def __contains__(self, value: Value) -> bool:
        return id(value) in self.values

    def _forget(self, values: Iterable[Value | None]) -> list[Value]:
        """Values lose a reading each."""
        found = [value for value in values if value is not None]
        for value in found:
            self._lost[id(value)] += 1
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
                doubtful += self._forget(producer.inputs)

    def _is_dead(self, value: Value) -> bool:
        made = [value] if value.producer is None else [other for other in value.producer.outputs if other is not None]
        return self._draft.constants.get(value) is not None and all(self._is_unread(other) for other in made)

    def _is_unread(self, value: Value) -> bool:
        return id(value) not in self._heirs and not value.is_output and self._lost[id(value)] >= len(value.uses)
