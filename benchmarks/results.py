"""The rows of the peers' table: what one tool did to one model, and the ratios between rows."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.measure.count import Remaining

ORIGINAL = "original"


@dataclass(frozen=True)
class Row:
    """What one tool did to one model.

    Args:
        model: `group/name`.
        tool: name of the tool, or `original`.
        word: right, suspect, wrong, failed (crashed or wrote nothing) or unknown (the original does not run).
        why: reason of a bad word, or "".
        left: what was counted in the result; None where there is none.
        wall: seconds of the whole process, median; None for the original.
        peak: bytes resident at most; None for the original.
        speed: inference time of the original divided by that of the result; None where it did not run.
    """

    model: str
    tool: str
    word: str
    why: str = ""
    left: Remaining | None = None
    wall: float | None = None
    peak: int | None = None
    speed: float | None = None


@dataclass(frozen=True)
class Total:
    """One tool over the models: sums, and geometric means of ratios over the models that both sides did.

    Args:
        tool: its name.
        models: how many models it was given.
        words: how many of each word.
        norms: BatchNormalizations left in the results that are not failed or wrong.
        norms_before: BatchNormalizations of the same models before.
        affines: per-channel affine nodes left in them.
        affines_before: the same before.
        wall: this tool's wall time over the base tool's.
        peak: this tool's peak memory over the base tool's.
        speed: inference time of the original over the result's.
    """

    tool: str
    models: int
    words: dict[str, int]
    norms: int
    norms_before: int
    affines: int
    affines_before: int
    wall: float | None
    peak: float | None
    speed: float | None


def totals(rows: Sequence[Row], base: str) -> list[Total]:
    """One `Total` per tool in order of appearance; wall and peak are ratios to the tool called `base`.

    Models that the runtime cannot run even untouched are left out: nothing can be said about what a tool made of them.
    """
    unusable = {row.model for row in rows if row.tool == ORIGINAL and row.word == "unknown"}
    rows = [row for row in rows if row.model not in unusable]
    tools = [tool for tool in dict.fromkeys(row.tool for row in rows) if tool != ORIGINAL]
    by_place = {(row.model, row.tool): row for row in rows}
    return [_total([row for row in rows if row.tool == tool], by_place, base) for tool in tools]


def geometric_mean(ratios: Iterable[float]) -> float | None:
    """The mean of ratios; None of nothing."""
    known = list(ratios)
    return statistics.geometric_mean(known) if known else None


def base_tool(rows: Sequence[Row]) -> str:
    """What the ratios are taken against: normfold where it ran, else the first tool."""
    tools = [row.tool for row in rows if row.tool != ORIGINAL]
    return "normfold" if "normfold" in tools or not tools else tools[0]


def _total(rows: list[Row], by_place: dict[tuple[str, str], Row], base: str) -> Total:
    usable = [row for row in rows if row.left and row.word not in ("wrong", "failed")]
    pairs = [(row.left, by_place[row.model, ORIGINAL].left) for row in usable]
    known = [(after, before) for after, before in pairs if after and before]
    ratios = [_cost_ratios(row, by_place.get((row.model, base))) for row in rows if row.word != "failed"]
    words = [row.word for row in rows]
    return Total(
        tool=rows[0].tool,
        models=len(rows),
        words={word: words.count(word) for word in dict.fromkeys(words)},
        norms=sum(after.norms for after, _ in known),
        norms_before=sum(before.norms for _, before in known),
        affines=sum(after.affines for after, _ in known),
        affines_before=sum(before.affines for _, before in known),
        wall=geometric_mean(ratio[0] for ratio in ratios if ratio),
        peak=geometric_mean(ratio[1] for ratio in ratios if ratio),
        speed=geometric_mean(row.speed for row in usable if row.speed),
    )


def _cost_ratios(row: Row, base: Row | None) -> tuple[float, float] | None:
    """(wall, peak) of a row over the base's, where both succeeded."""
    if base is None or base.word == "failed" or not (row.wall and row.peak and base.wall and base.peak):
        return None
    return row.wall / base.wall, row.peak / base.peak
