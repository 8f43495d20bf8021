"""Answers about values that depend on the answers about other values, worked out without recursion."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from normfold.model.graph import Value

A = TypeVar("A")


class Answers(Generic[A]):
    """One answer for every value that is asked for; each is worked out once.

    Args:
        needs: the values whose answers must be known before.
        answer: the answer, once those are known.
    """

    def __init__(self, needs: Callable[[Value], Iterable[Value]], answer: Callable[[Value], A]) -> None:
        self._needs = needs
        self._answer = answer
        self._known: dict[int, A] = {}

    def get(self, value: Value) -> A:
        """The answer, worked out if need be."""
        known = self._known
        if id(value) in known:  # nearly always: every rule asks again
            return known[id(value)]
        pending = [value]
        while pending:
            current = pending[-1]
            if id(current) in known:
                pending.pop()
                continue
            missing = [needed for needed in self._needs(current) if id(needed) not in known]
            if missing:
                # A cycle cannot occur: loading rejects it.
                pending.extend(missing)
                continue
            known[id(current)] = self._answer(current)
            pending.pop()
        return known[id(value)]

    def known(self, value: Value) -> A | None:
        """The answer if it has been worked out, None otherwise."""
        return self._known.get(id(value))
