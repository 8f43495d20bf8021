"""The switches: nothing changes while all are on, and each of them takes exactly its guard away."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutation import probe
from tests.mutation.guards import Guard, instrument, sources

ROOT = Path(__file__).parents[2]
SOURCE = '''"""A docstring."""

from __future__ import annotations

class Refused(Exception):
    pass

def require_small(x):
    if x > 100:
        raise ValueError("too large")

def judged(x, seen):
    seen.append(x)
    if x < 0 or x == 7:
        raise Refused("no")
    if x % 2 and x > 10:
        raise Refused("odd")
    require_small(x)
    return x
'''


@pytest.fixture(scope="module")
def made() -> tuple[dict[str, object], list[Guard]]:
    text, guards = instrument(SOURCE, "x.py", 5)
    space: dict[str, object] = {}
    exec(compile(text, "x.py", "exec"), space)
    return space, guards


def outcome(space: dict[str, object], x: int) -> str:
    try:
        return str(space["judged"](x, []))  # type: ignore[operator]
    except Exception as error:
        return type(error).__name__


def test_the_guards(made: tuple[dict[str, object], list[Guard]]) -> None:
    _, guards = made
    texts = [guard.text for guard in guards]
    assert texts == [
        "x < 0",
        "x == 7",
        "raise Refused('no')",
        "x % 2",
        "x > 10",
        "raise Refused('odd')",
        "require_small(x)",
    ]
    assert [guard.number for guard in guards] == list(range(5, 12))
    assert str(guards[0]) == "x.py:14: x < 0"


WITHOUT = {
    None: {},
    "x < 0": {-2: "-2", -1: "-1"},
    "x == 7": {7: "7"},
    "raise Refused('no')": {-2: "-2", -1: "-1", 7: "7"},
    "x % 2": {12: "Refused", 102: "Refused"},
    "x > 10": {3: "Refused"},
    "raise Refused('odd')": {11: "11", 101: "ValueError"},
    "require_small(x)": {102: "102"},
}


@pytest.mark.parametrize("off", list(WITHOUT))
def test_a_guard_that_is_off(
    made: tuple[dict[str, object], list[Guard]], monkeypatch: pytest.MonkeyPatch, off: str | None
) -> None:
    space, guards = made
    number = next((guard.number for guard in guards if guard.text == off), -1)
    monkeypatch.setattr(probe, "_OFF", number)
    plain = {-2: "Refused", -1: "Refused", 3: "3", 7: "Refused", 8: "8", 11: "Refused", 12: "12", 101: "Refused"}
    plain[102] = "ValueError"
    for x, expected in {**plain, **WITHOUT[off]}.items():
        probe._spoken.clear()
        assert outcome(space, x) == expected, x
        if expected != plain[x]:
            assert number in probe._spoken or off == "require_small(x)"


def test_every_rule_can_be_instrumented_and_still_compiles() -> None:
    guards: list[Guard] = []
    for path in sources(ROOT, []):
        text, found = instrument(path.read_text("utf-8"), str(path.relative_to(ROOT)), len(guards))
        compile(text, str(path), "exec")
        guards += found
    assert len(guards) > 300
    assert len({guard.number for guard in guards}) == len(guards)
    assert any(guard.path.startswith("normfold/affine/crossings") for guard in guards)


def test_some_rules_only() -> None:
    found = list(sources(ROOT, ["normfold/affine/merge"]))
    assert found
    assert all("merge" in path.parts for path in found)
