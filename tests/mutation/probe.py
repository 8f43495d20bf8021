"""Runs inside of the instrumented copy: every guard asks here whether it is the one that is left out.

As a pytest plugin (`-p tests.mutation.probe`) it notes which tests make which guard speak.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

_OFF = int(os.environ.get("NORMFOLD_MUTANT", "-1"))
_LOG = os.environ.get("NORMFOLD_MUTATION_LOG", "")
_spoken: set[int] = set()
_tests: dict[str, list[int]] = {}


def stands(number: int) -> bool:
    """Whether a refusal is made: asked when it is about to be."""
    _spoken.add(number)
    return number != _OFF


def call(number: int, guard: Callable[[], Any]) -> None:
    """A call that is there to raise."""
    if number == _OFF:
        return
    try:
        guard()
    except BaseException:
        _spoken.add(number)
        raise


def either(number: int, value: Any) -> Any:
    """One operand of an `or` in front of a refusal."""
    if value:
        _spoken.add(number)
        return number != _OFF and value
    return value


def both(number: int, value: Any) -> Any:
    """One operand of an `and` in front of a refusal."""
    if not value:
        _spoken.add(number)
        return number == _OFF or value
    return value


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """What speaks during a test, its fixtures included."""
    _spoken.clear()
    yield
    _tests[item.nodeid] = sorted(_spoken)


def pytest_sessionfinish() -> None:
    """Leave the notes where the parent looks for them."""
    if _LOG:
        Path(_LOG).write_text(json.dumps(_tests), "utf-8")
