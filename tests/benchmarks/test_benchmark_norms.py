"""What `benchmarks.norms` compares is one norm each time, and its table says what was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.generate import norms as generate
from benchmarks.generate.norms import Case
from benchmarks.measure.bound import Bound, copy_of
from benchmarks.measure.placement import placement, shown
from benchmarks.measure.session import deployed, plain
from benchmarks.norms import Row, Setup, measure, norms_table, race, variants

SINGLE = np.dtype(np.float32)
SMALL: tuple[Case, ...] = (
    generate.layer_norm(2, 3, 16),
    generate.rms_norm(2, 3, 16),
    generate.layer_norm_2d(2, 8, 3, 4),
    generate.group_norm(4, 2, 8, 3, 4),
    generate.group_norm_last(4, 2, 3, 4, 8),
    generate.instance_norm(2, 8, 5, 4),
)
SETUP = Setup("cpu", 1, SINGLE, 0.0)


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_every_variant_computes_the_norm(case: Case) -> None:
    x = case.x(SINGLE)
    expected = case.expected(x)
    names = []
    for name, model in variants(case, SETUP):
        onnx.load_from_string(model)
        found = plain(model).run(None, {"x": x})[0]
        # float32 on some dozens of numbers near 1; MeanVarianceNormalization has no epsilon at all
        bound = 2e-5 if "Variance" in name else 4e-6
        assert np.abs(found - expected).max() <= bound * np.abs(expected).max(), name
        names.append(name)
    assert names[: len(case.spellings)] == list(case.spellings)
    assert [name.split(":")[0] for name in names[len(case.spellings) :]] == ["-> portable", "-> ort-cpu"]


def test_half_precision_models_are_of_half_precision() -> None:
    case = SMALL[0]
    for _, model in variants(case, replace(SETUP, dtype=np.dtype(np.float16))):
        graph = onnx.load_from_string(model).graph
        assert {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)} == {10}


def test_rows_have_times_ratios_errors_and_nodes() -> None:
    rows = measure(SMALL[3], SETUP)
    assert rows[-1].ratio == rows[-1].ratio_of_fastest == 1.0
    for row in rows:
        assert row.seconds is not None
        assert row.seconds > 0.0
        assert row.error is not None
        assert row.error < 4e-6
    assert rows[0].nodes == "29"
    table = norms_table(rows, "title")
    assert table.header[-1] == "nodes"
    assert [row[0] for row in table.rows] == [SMALL[3].name] + [""] * (len(rows) - 1)


def test_a_variant_that_does_not_run_says_why() -> None:
    case = Case("broken", SMALL[0].norm, {"wrong": "y = Frobnicate(x)"}, {})
    rows = measure(case, SETUP)
    assert rows[0].seconds is None
    assert "Frobnicate" in rows[0].nodes
    assert norms_table(rows, "title").rows[0][2:5] == ("–", "–", "–")


def test_a_device_adds_bytes_and_the_share_of_a_copy() -> None:
    row = Row("norm", "variant", 1e-3, 2.0, 2.0, 1e-7, "1", 4.5e11, 0.75)
    assert norms_table([row], "title").rows[0][-2:] == ("450", "75%")


def test_turns_are_as_many_for_everyone() -> None:
    x = np.ones((4, 4), np.float32)
    taken = race({"a": copy_of(x, "cpu"), "b": copy_of(x, "cpu")}, 0.0)
    assert len(taken["a"]) == len(taken["b"]) > 1


def test_placement_names_what_runs_elsewhere() -> None:
    case = SMALL[0]
    x = case.x(SINGLE)
    model = case.model("LayerNormalization", SINGLE)
    assert placement(model, "cpu", x) == (("LayerNormalization", "CPUExecutionProvider"),)
    strays = (("Reshape", "CUDAExecutionProvider"), *[("InstanceNormalization", "CPUExecutionProvider")] * 2)
    assert shown(strays, "cuda") == "3; not on cuda: InstanceNormalization×2"
    assert not list(Path.cwd().glob("run*.json"))


def test_bound_runs_give_what_plain_runs_give() -> None:
    case = SMALL[0]
    x = case.x(SINGLE)
    session = deployed(case.model("LayerNormalization", SINGLE))
    assert np.array_equal(Bound.of(session, x, "cpu").result(), session.run(None, {"x": x})[0])
