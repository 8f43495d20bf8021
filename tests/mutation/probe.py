"""Runs inside of the instrumented copy: every guard asks here whether it is the one that is left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# The guard that is left out; those that decided something since somebody looked last, and calls that were made.
off = -1
spoken: set[int] = set()
reached: set[int] = set()


def call(number: int, guard: Callable[[], Any]) -> None:
    """A call that is there to raise."""
    if number == off:
        return
    reached.add(number)
    try:
        guard()
    except BaseException:
        spoken.add(number)
        raise


def either(number: int, value: Any) -> Any:
    """What gives up where it is true: a condition, a refusal that is about to be made, one operand of an `or`."""
    if value:
        spoken.add(number)
        return number != off and value
    return value


def both(number: int, value: Any) -> Any:
    """What gives up where it is false: a condition, one operand of an `and`."""
    if not value:
        spoken.add(number)
        return number == off or value
    return value
