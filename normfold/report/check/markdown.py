"""The summary page of a GitHub job: the verdict, the findings, the worst layers, as Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from normfold.statistics.bar import DEFAULT_BAR, Bar
from normfold.statistics.codes import RULES
from normfold.statistics.schema import CheckReport, Finding, LayerReport, Status

_STATUSES = (Status.FAIL, Status.WARN, Status.INCONCLUSIVE)
_MOST_FINDINGS, _MOST_LAYERS, _LONGEST = 20, 10, 300
# What Markdown would read as its own.
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~:@])")


def markdown(report: CheckReport, bar: Bar = DEFAULT_BAR) -> str:
    """A heading with the verdict, why the step fails if it does, the findings, the layers that do not pass, worst first."""
    verdict = report.verdict.value if report.verdict else "error"
    path = f" of {_text(report.input.path)}" if report.input and report.input.path else ""
    parts = [f"### normfold check{path}: {verdict}", _text(report.summary)]
    reason = bar.reason(report)
    if reason:
        parts.append(f"**Failed**: {_text(reason)}")
    counted = report.counted()
    if counted:
        parts.append(_table(("finding", "severity", "where", "what", "to do"), map(_finding, counted[:_MOST_FINDINGS])))
        parts += _rest(len(counted) - _MOST_FINDINGS, "findings")
    layers = sorted(
        (layer for layer in report.layers if layer.status in _STATUSES),
        key=lambda layer: (_STATUSES.index(layer.status), -(layer.j or 0.0), layer.position),
    )
    if layers:
        columns = ("layer", "status", "J", "shift in σ", "variance ratio", "n")
        parts.append(_table(columns, map(_layer, layers[:_MOST_LAYERS])))
        parts += _rest(len(layers) - _MOST_LAYERS, "layers")
    if report.next_step:
        parts.append(f"Next: {_text(report.next_step)}")
    return "\n\n".join(parts) + "\n\n"


def append_summary(report: CheckReport, path: Path, bar: Bar = DEFAULT_BAR) -> None:
    """Add the page to a file that other steps may have written to.

    Raises:
        OSError: it cannot be written.
    """
    with path.open("a", encoding="utf-8") as file:
        file.write(markdown(report, bar))


def _finding(finding: Finding) -> Sequence[str]:
    title = f"{finding.code} {RULES[finding.code].title}"
    return title, finding.severity.value, finding.node or "", finding.message, finding.fix


def _layer(layer: LayerReport) -> Sequence[str]:
    note = ", root cause" if layer.is_root_cause else ", collateral" if layer.collateral_of else ""
    numbers = (layer.j, layer.mean_shift, layer.variance_ratio)
    return (
        layer.node, layer.status.value + note, *("" if value is None else f"{value:.3g}" for value in numbers),
        "" if layer.n is None else str(layer.n),
    )  # fmt: skip


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(map(_text, row)) + " |" for row in rows)])


def _rest(count: int, what: str) -> list[str]:
    return [f"… and {count} more {what}"] if count > 0 else []


def _text(text: str) -> str:
    """One line that is shown as it is: neither Markdown nor HTML, whatever a node is called."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    short = printable if len(printable) <= _LONGEST else printable[: _LONGEST - 1] + "…"
    return _SPECIAL.sub(r"\\\1", html.escape(short, quote=False))
