"""Ratios, sums and tables, from rows that were never measured."""

from __future__ import annotations

import pytest

from benchmarks.measure.count import Remaining
from benchmarks.measure.process import Cost, median
from benchmarks.results import ORIGINAL, Row, base_tool, geometric_mean, totals
from benchmarks.scale.goal import Figure, goals_table, growth, ratio
from benchmarks.table import costs_table, markdown, models_table, totals_table

ROWS = [
    Row("g/a", ORIGINAL, "right", left=Remaining(4, 2, 9)),
    Row("g/a", "normfold", "right", "", Remaining(0, 0, 5), 1.0, 100, 2.0),
    Row("g/a", "peer", "right", "", Remaining(1, 2, 6), 4.0, 400, 1.0),
    Row("g/b", ORIGINAL, "right", left=Remaining(2, 0, 4)),
    Row("g/b", "normfold", "right", "", Remaining(1, 0, 3), 1.0, 100, 0.5),
    Row("g/b", "peer", "wrong", "off by 1", Remaining(0, 0, 2), 1.0, 100),
    Row("g/c", ORIGINAL, "right", left=Remaining(1, 0, 4)),
    Row("g/c", "normfold", "right", "", Remaining(0, 0, 3), 1.0, 100, 1.0),
    Row("g/c", "peer", "failed", "exit 1", None, 9.0, 900),
]


def test_totals_take_ratios_over_models_that_both_did() -> None:
    ours, peer = totals(ROWS, "normfold")
    assert (ours.norms, ours.norms_before, ours.wall) == (1, 7, pytest.approx(1.0))
    assert ours.speed == pytest.approx(1.0)
    assert peer.words == {"right": 1, "wrong": 1, "failed": 1}
    assert peer.wall == pytest.approx(2.0)
    assert peer.peak == pytest.approx(2.0)


def test_what_a_wrong_result_removed_is_not_counted() -> None:
    peer = totals(ROWS, "normfold")[1]
    assert (peer.norms, peer.norms_before, peer.affines, peer.affines_before) == (1, 4, 2, 2)


def test_a_model_that_does_not_run_untouched_is_nobodys_failure() -> None:
    unusable = [Row("g/d", ORIGINAL, "unknown", "no data"), Row("g/d", "peer", "failed", "exit 1")]
    assert totals([*ROWS, *unusable], "normfold") == totals(ROWS, "normfold")


def test_the_base_is_normfold_or_the_first_peer() -> None:
    assert base_tool(ROWS) == "normfold"
    assert base_tool([row for row in ROWS if row.tool != "normfold"]) == "peer"
    assert geometric_mean([]) is None


def test_the_models_table_shows_counts_speed_and_verdict() -> None:
    table = models_table(ROWS)
    assert table.header == ("model", "original", "normfold", "peer")
    assert table.rows[1] == ("g/b", "2/0", "1/0 0.50×", "0/0 **WRONG**")
    assert table.rows[2][3] == "failed"


def test_the_costs_table_gives_ratios_to_the_base() -> None:
    assert costs_table(ROWS, "normfold").rows[0][2] == "4.00×, 4.00×"
    assert costs_table(ROWS, "normfold").rows[2][2] == "–"


def test_markdown_is_a_table() -> None:
    lines = markdown(totals_table(totals(ROWS, "normfold"), "normfold")).splitlines()
    assert lines[3].startswith("| :-- | --: |")
    assert len(lines) == 6
    assert len({line.count("|") for line in lines[2:]}) == 1


def test_a_median_cost_keeps_the_largest_peak_and_any_failure() -> None:
    typical = median([Cost(0, 1.0, 5), Cost(3, 9.0, 7, "why"), Cost(0, 2.0, 6)])
    assert typical == Cost(3, 2.0, 7, "why")


def test_growth_is_the_largest_step() -> None:
    assert growth([1.0, 2.0, 5.0]) == 2.5
    assert ratio(3.0, 2.0) == 1.5
    assert ratio(None, 2.0) is None


@pytest.mark.parametrize(
    ("value", "limit", "absent", "verdict"),
    [
        (1.0, 1.0, False, "pass"),
        (1.1, 1.0, False, "FAIL"),
        (None, 1.0, False, "FAIL"),
        (None, 1.0, True, "not measured"),
        (1.0, None, False, "-"),
    ],
)
def test_a_tool_that_dies_fails_its_goal(value: float | None, limit: float | None, absent: bool, verdict: str) -> None:
    figure = Figure("case", "what", value, limit, "×", absent)
    assert figure.verdict == verdict
    assert goals_table([figure]).rows[0][3] == verdict
