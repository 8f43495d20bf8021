"""Guards that no test can miss, each with the reason: without them the rules give the same answers."""

from __future__ import annotations

from collections.abc import Iterable

from tests.mutation.guards import Guard

# (path, function, text) -> why
EQUIVALENT: dict[tuple[str, str, str], str] = {}


def without_equivalents(guards: Iterable[Guard]) -> list[Guard]:
    """The guards that a test can miss."""
    return [guard for guard in guards if (guard.path, guard.function, guard.text) not in EQUIVALENT]
