"""docs/faults.md promises with tests: every one that it names exists, and the bounds that it lists are the ones there are."""

from __future__ import annotations

import ast
import dataclasses
import re
from functools import cache
from pathlib import Path

import pytest

from normfold.model.caps import Caps

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "faults.md").read_text("utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))
_UNPROVEN = "Not tested here"


@cache
def _defined_in(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("path", sorted({path for path, _ in NAMED}))
def test_every_test_on_the_page_exists(path: str) -> None:
    assert (ROOT / path).is_file(), path
    wanted = {name for named, name in NAMED if named == path}
    assert wanted <= _defined_in(path)
    assert all(name.startswith("test_") for name in wanted)


def test_every_case_is_proved_or_says_why_not() -> None:
    assert len(NAMED) > 150
    for title, body in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S):
        if "| proved by |" not in body:
            continue
        rows = [line for line in body.splitlines() if line.startswith("| ")][1:]
        assert rows, title
        for row in rows:
            assert row.count(" | ") == 2, row
            assert "`tests/" in row.rpartition(" | ")[2], row
    assert f"## {_UNPROVEN}" in PAGE


def test_the_bounds_are_those_of_the_library() -> None:
    rows = dict(re.findall(r"^\| `([a-z][a-z-]*)` \| [^|]*\| ([^|]*?) \|", PAGE, re.M))
    assert set(rows) == {field.name.replace("_", "-") for field in dataclasses.fields(Caps)}
    for field in dataclasses.fields(Caps):
        shown = rows[field.name.replace("_", "-")].replace(",", "")
        number = {"2⁶³ − 1": (1 << 63) - 1, "4 TiB": 1 << 42}.get(shown) or int(shown)
        assert number == field.default, field.name
