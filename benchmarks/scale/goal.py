"""One measured figure and the goal that it is held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.table import Table


@dataclass(frozen=True)
class Figure:
    """A figure of a case.

    Args:
        case: which case.
        what: what was measured, and against what.
        value: the figure; None where it could not be measured.
        limit: the goal, an upper bound; None for a figure that is only reported.
        unit: `s`, `×`, `MB` or `nodes`.
        absent: whether the tool is not installed, so that no value is no failure.
    """

    case: str
    what: str
    value: float | None
    limit: float | None = None
    unit: str = "s"
    absent: bool = False

    @property
    def verdict(self) -> str:
        """pass, FAIL, `-` for a figure without a goal, `not measured` for an absent tool; one that died fails."""
        if self.limit is None:
            return "-"
        if self.absent:
            return "not measured"
        return "pass" if self.value is not None and self.value <= self.limit else "FAIL"


def growth(seconds: Sequence[float]) -> float:
    """The largest factor from one size to the next."""
    return max(after / before for before, after in pairwise(seconds))


def ratio(value: float | None, base: float | None) -> float | None:
    """value/base, or None where either is missing."""
    return None if value is None or not base else value / base


def goals_table(figures: Sequence[Figure]) -> Table:
    """One row per figure."""
    rows = tuple(
        (f"{f.case}: {f.what}", _number(f.value, f.unit), _number(f.limit, f.unit, "≤ "), f.verdict) for f in figures
    )
    return Table("Scale goals", ("figure", "value", "goal", "verdict"), rows)


def _number(value: float | None, unit: str, sign: str = "") -> str:
    if value is None:
        return "–"
    return f"{sign}{value:.2f}×" if unit == "×" else f"{sign}{value:.{0 if unit == 'nodes' else 2}f} {unit}"
