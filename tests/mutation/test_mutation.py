"""The switches: nothing changes while all are on, and each of them takes exactly its guard away."""

from __future__ import annotations

import ast
from argparse import Namespace
from pathlib import Path

import pytest

from tests.mutation import probe
from tests.mutation.__main__ import judged, score
from tests.mutation.choice import Heard, chosen
from tests.mutation.equivalent import EQUIVALENT
from tests.mutation.guards import FOLDERS, Guard, instrument, refusing, sources
from tests.mutation.narrowing import Uses, is_narrowing

ROOT = Path(__file__).parents[2]
SOURCE = '''"""A docstring."""

from __future__ import annotations

class Refused(Exception):
    pass

def require_small(x):
    if x > 100:
        raise Refused("too large")

def is_even(x) -> bool:
    return x % 2 == 0 and x != 4

def judged(x, seen):
    seen.append(x)
    if x < 0 or x == 7:
        raise Refused("no")
    if x % 2 and x > 10:
        return None
    require_small(x)
    for y in seen:
        if y == 50:
            continue
        break
    else:
        raise Refused("fifty")
    return x if x != 9 else None
'''


@pytest.fixture(scope="module")
def made() -> tuple[dict[str, object], list[Guard]]:
    text, guards = instrument(SOURCE, f"{FOLDERS[0]}/x.py", 5, refusing([SOURCE]))
    space: dict[str, object] = {}
    exec(compile(text, "x.py", "exec"), space)
    return space, guards


def outcome(space: dict[str, object], x: int) -> str:
    try:
        return f"{space['judged'](x, [])} {space['is_even'](x)}"  # type: ignore[operator]
    except Exception as error:
        return type(error).__name__


PLAIN = {-2: "Refused", 3: "3 False", 4: "4 False", 7: "Refused", 8: "8 True", 9: "None False", 11: "None False",
         12: "12 True", 50: "Refused", 102: "Refused"}  # fmt: skip
WITHOUT = {
    None: {},
    "x % 2 == 0": {3: "3 True", 9: "None True", 11: "None True"},
    "x != 4": {4: "4 True"},
    "x < 0": {-2: "-2 True"},
    "x == 7": {7: "7 False"},
    "x % 2 and x > 10": {11: "11 False"},
    "x % 2": {12: "None True", 50: "None True", 102: "None True"},
    "x > 10": {3: "None False"},
    "require_small(x)": {102: "102 True"},
    "x > 100": {102: "102 True"},
    "y == 50": {50: "50 True"},
    "raise Refused('fifty')": {50: "50 True"},
    "x != 9": {9: "9 False"},
}


def test_the_guards(made: tuple[dict[str, object], list[Guard]]) -> None:
    _, guards = made
    assert sorted(guard.text for guard in guards) == sorted(text for text in WITHOUT if text)
    assert [guard.number for guard in guards] == list(range(5, 5 + len(guards)))
    assert f"{FOLDERS[0]}/x.py:17: judged: x < 0" in map(str, guards)


@pytest.mark.parametrize("off", list(WITHOUT))
def test_a_guard_that_is_off(
    made: tuple[dict[str, object], list[Guard]], monkeypatch: pytest.MonkeyPatch, off: str | None
) -> None:
    space, guards = made
    number = next((guard.number for guard in guards if guard.text == off), -1)
    for x, expected in {**PLAIN, **WITHOUT[off]}.items():
        monkeypatch.setattr(probe, "off", -1)
        probe.spoken.clear()
        assert outcome(space, x) == PLAIN[x]
        spoke = number in probe.spoken
        monkeypatch.setattr(probe, "off", number)
        assert outcome(space, x) == expected, x
        assert spoke or expected == PLAIN[x], "a test that would miss it is not run"


@pytest.mark.parametrize(
    ("body", "test", "refuses", "narrows"),
    [
        ("return x.y", "x is None", True, True),
        ("return x.y", "x is None", False, False),
        ("return x.y", "x is not None", True, False),
        ("return x.y", "x is not None", False, True),
        ("return x.y", "not isinstance(x, int)", True, True),
        ("return x + 1", "x is None", True, True),
        ("return x < 1", "x is None", True, True),
        ("return x == 1", "x is None", True, False),
        ("return 1 in x", "x is None", True, True),
        ("return [*x]", "x is None", True, True),
        ("return [a for a in x]", "x is None", True, True),
        ("a, b = x", "x is None", True, True),
        ("return x()", "x is None", True, True),
        ("return f(x)", "x is None", True, False),
        ("return f(1).y", "f(1) is None", True, False),
        ("return x.y", "x", False, False),
    ],
)
def test_what_the_type_checker_demands(body: str, test: str, refuses: bool, narrows: bool) -> None:
    uses = Uses(ast.parse(body))
    assert is_narrowing(ast.parse(test, mode="eval").body, uses, refuses=refuses) is narrows


def test_every_rule_can_be_instrumented_and_still_compiles() -> None:
    guards: list[Guard] = []
    refuse = refusing(path.read_text("utf-8") for path in sources(ROOT, []))
    assert {"closed", "require_range", "_require_private", "spend"} <= refuse
    assert not {"append", "_forget_slots", "_add_product", "restart"} & refuse
    for path in sources(ROOT, []):
        text, found = instrument(path.read_text("utf-8"), str(path.relative_to(ROOT)), len(guards), refuse)
        compile(text, str(path), "exec")
        guards += found
    assert len(guards) > 1000
    assert len({guard.number for guard in guards}) == len(guards)
    assert {folder for folder in FOLDERS for guard in guards if guard.path.startswith(folder)} == set(FOLDERS)
    known = {(guard.path, guard.function, guard.text) for guard in guards}
    assert not set(EQUIVALENT) - known, "these guards are gone"
    assert all(EQUIVALENT.values())


def test_some_rules_only() -> None:
    found = list(sources(ROOT, ["normfold/affine/merge"]))
    assert found
    assert all("merge" in path.parts for path in found)


def test_the_choice_of_tests() -> None:
    heard = {
        "broad": Heard(frozenset(range(9)), frozenset((1,)), 0.1, True),
        "specific": Heard(frozenset((1,)), frozenset((1,)), 5.0, True),
        "slow": Heard(frozenset((1, 2)), frozenset(), 9.0, True),
        "deaf": Heard(frozenset((2,)), frozenset((10,)), 0.1, True),
        "reaching": Heard(frozenset(), frozenset((2,)), 0.1, True),
    }
    assert chosen(1, heard, 10, 99.0) == ["specific", "broad", "slow"]
    assert chosen(1, heard, 1, 99.0) == ["specific"]
    assert chosen(1, heard, 10, 6.0) == ["specific", "broad"]
    assert chosen(1, heard, 10, 0.0) == ["specific"]
    assert chosen(2, heard, 10, 99.0) == ["deaf", "broad", "slow", "reaching"]
    assert not chosen(10, heard, 10, 99.0)


TESTS = """
import time, pytest
from rules import judged, Refused

def test_seven():
    with pytest.raises(Refused):
        judged(7, [])

def test_negative_is_run_and_not_looked_at():
    try:
        judged(-2, [])
    except Refused:
        pass
"""


def test_what_is_missed_and_what_survives(tmp_path: Path) -> None:
    text, guards = instrument(SOURCE, f"{FOLDERS[0]}/x.py", 0, refusing([SOURCE]))
    (tmp_path / "rules.py").write_text(text, "utf-8")
    (tmp_path / "test_rules.py").write_text(TESTS, "utf-8")
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    options = Namespace(jobs=2, most=10, seconds=10.0, tests=["test_rules.py"])
    found = judged(tmp_path, guards, options)
    of = {guard.number: guard.text for guard in guards}
    assert not found["broken"]
    assert [of[number] for number in found["survivors"]] == ["x < 0"]
    assert {of[number] for number in found["silent"]} == set(of.values()) - {"x < 0", "x == 7"}
    lines = score(guards, {*found["survivors"], *found["silent"]})
    assert lines[-1].startswith("1 of 12 guards are missed by a test")
