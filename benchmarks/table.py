"""Tables as lists of strings, and their two renderings: Markdown for pages, rich for terminals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.measure.process import MIB
from benchmarks.results import ORIGINAL, Row, Total

MARKS = {"right": "", "suspect": " suspect", "wrong": " **WRONG**", "failed": "failed", "unknown": " ?"}


@dataclass(frozen=True)
class Table:
    """A title, a header, and rows of equal length; the first column is text, the others figures."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def times(value: float | None) -> str:
    """A ratio, as `1.23×`; a dash for none."""
    return "–" if value is None else f"{value:.2f}×"


def totals_table(totals: Sequence[Total], base: str) -> Table:
    """One row per tool."""
    header = ("tool", "right", "suspect", "wrong", "failed", "BatchNorms left", "affines left")
    ratios = (f"wall / {base}", f"peak memory / {base}", "inference speed-up")
    return Table("All models", header + ratios, tuple(map(_total_row, totals)))


def models_table(rows: Sequence[Row]) -> Table:
    """One row per model, one column per tool: `BatchNorms/affines left`, the verdict, the inference speed-up."""
    tools = [tool for tool in dict.fromkeys(row.tool for row in rows) if tool != ORIGINAL]
    cells = {(row.model, row.tool): _cell(row) for row in rows}
    models = dict.fromkeys(row.model for row in rows)
    body = [(m, *(cells.get((m, tool), "–") for tool in (ORIGINAL, *tools))) for m in models]
    return Table("BatchNorms / affines left, inference speed-up", ("model", ORIGINAL, *tools), tuple(body))


def costs_table(rows: Sequence[Row], base: str) -> Table:
    """One row per model, one column per tool: seconds and peak of the base, ratios of the others."""
    tools = [tool for tool in dict.fromkeys(row.tool for row in rows) if tool not in (ORIGINAL, base)]
    at = {(row.model, row.tool): row for row in rows}
    body = [
        (m, _absolute(at.get((m, base))), *(_relative(at.get((m, tool)), at.get((m, base))) for tool in tools))
        for m in dict.fromkeys(row.model for row in rows)
    ]
    return Table(f"Whole process: wall, peak memory, against {base}", ("model", base, *tools), tuple(body))


def markdown(table: Table) -> str:
    """The table as Markdown, figures aligned right."""
    rule = [":--", *["--:"] * (len(table.header) - 1)]
    lines = [f"**{table.title}**", ""]
    lines += [f"| {' | '.join(row)} |" for row in (table.header, rule, *table.rows)]
    return "\n".join(lines) + "\n"


def show(table: Table) -> None:
    """Print the table to the terminal."""
    from rich.console import Console
    from rich.table import Table as RichTable

    drawn = RichTable(title=table.title)
    for k, name in enumerate(table.header):
        drawn.add_column(name, justify="right" if k else "left")
    for row in table.rows:
        drawn.add_row(*(cell.replace("**", "") for cell in row))
    Console(width=None if Console().is_terminal else 200).print(drawn)


def _total_row(total: Total) -> tuple[str, ...]:
    words = (str(total.words.get(word, 0)) for word in ("right", "suspect", "wrong", "failed"))
    norms = f"{total.norms} of {total.norms_before}"
    affines = f"{total.affines} of {total.affines_before}"
    return total.tool, *words, norms, affines, times(total.wall), times(total.peak), times(total.speed)


def _cell(row: Row) -> str:
    if row.left is None:
        return MARKS[row.word]
    speed = f" {times(row.speed)}" if row.speed else ""
    return f"{row.left.norms}/{row.left.affines}{speed}{MARKS[row.word] if row.tool != ORIGINAL else ''}"


def _absolute(row: Row | None) -> str:
    if row is None or row.wall is None or row.peak is None:
        return "–"
    return f"{row.wall:.2f} s, {row.peak / MIB:.0f} MiB"


def _relative(row: Row | None, base: Row | None) -> str:
    if row is None or base is None or row.word == "failed" or base.word == "failed":
        return "–"
    if not (row.wall and base.wall and row.peak and base.peak):
        return "–"
    return f"{times(row.wall / base.wall)}, {times(row.peak / base.peak)}"
