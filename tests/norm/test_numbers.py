"""Sizes that a graph computes: right, and found in steps that grow with the nodes and not with the paths."""

from __future__ import annotations

import pytest

from normfold.norm import numbers
from normfold.norm.numbers import Extents
from tests.model.build import net, node, viewed


def extents_of(model):
    loaded, _, shapes = viewed(model)
    return Extents(shapes), loaded.graph.values


def nothing(value):
    return None


def test_a_size_that_is_read_twice_at_every_step_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = 20
    chain = [node("Add", [f"s{i}", f"s{i}"], [f"s{i + 1}"]) for i in range(steps)]
    model = net([node("Shape", ["x"], ["s0"]), *chain], {"x": ["n", 3]}, [f"s{steps}"])
    extents, values = extents_of(model)
    calls = []
    rule = numbers._RULES["Add"]
    monkeypatch.setattr(numbers, "_RULES", {**numbers._RULES, "Add": lambda *a: calls.append(1) or rule(*a)})
    found = extents.numbers(values[f"s{steps}"], nothing)
    assert found.tolist() == [extents.of(values["x"])[0] * 2**steps, 3 * 2**steps]
    assert len(calls) == steps


def test_data_ends_the_search_at_the_first_operand(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = 12
    chain = [node("Add", [f"x{i}", f"x{i}"], [f"x{i + 1}"]) for i in range(steps)]
    extents, values = extents_of(net(chain, {"x0": [2, 3]}, [f"x{steps}"]))
    asked = []
    get = extents.shapes.constants.get
    monkeypatch.setattr(extents.shapes.constants, "get", lambda value: asked.append(value) or get(value))
    assert extents.numbers(values[f"x{steps}"], nothing) is None
    assert len(asked) == steps + 1
