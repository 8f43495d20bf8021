"""Work grows with the model, not with its square: counted in calls, because seconds belong to a machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

import normfold
from benchmarks.generate.large import transformer
from benchmarks.generate.shapes import FORMS

BUILDERS = {**FORMS, "transformer": transformer}
SMALL = 600
LATE = {"sum_chain": 2 * SMALL}  # what looks at the 64 summands before each costs its full price only behind those


def calls(path: Path) -> int:
    """Calls of Python and C functions while a model is optimized and written."""
    count = 0

    def note(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    config = normfold.Config(verify=normfold.VerifyLevel.OFF)
    sys.setprofile(note)
    try:
        normfold.optimize(path, path.with_name("out.onnx"), config=config)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("name", BUILDERS)
def test_twice_the_nodes_take_about_twice_the_calls(name: str, tmp_path: Path) -> None:
    counted = []
    start = LATE.get(name, SMALL)
    for nodes in (60, start, 2 * start):  # the first one pays for imports and tables
        path = tmp_path / f"{nodes}.onnx"
        onnx.save(BUILDERS[name](nodes), path)
        counted.append(calls(path))
    _first, small, large = counted
    assert large / small < 2.15, f"{small} calls became {large}"
    assert small > 100
