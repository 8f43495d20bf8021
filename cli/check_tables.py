"""The report of `check` -> terminal: the verdict, one sentence for each kind of finding, the worst layers first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

from .plain import plain
from .terminal import console, safe

if TYPE_CHECKING:
    from normfold import CheckReport
    from normfold.statistics.schema import Finding, LayerReport

_COLOUR = {
    "fail": "bold red", "warn": "bold yellow", "pass": "bold green", "inconclusive": "bold cyan",
    "error": "red", "warning": "yellow", "info": "dim", "skipped": "dim", "not-applicable": "dim",
}  # fmt: skip
_ORDER = ("fail", "warn", "inconclusive", "pass", "skipped", "not-applicable")
_MOST_LAYERS, _MOST_NODES = 12, 4


def checked(report: CheckReport, *, verbose: bool, html: Path | None) -> None:
    """The result of `check`."""
    out = console()
    verdict = report.verdict.value if report.verdict else "error"
    out.print(f"[{_COLOUR.get(verdict, '')}]{verdict.upper()}[/]  {safe(report.summary, 400)}")
    _findings(out, report, every=verbose)
    _layers(out, report, every=verbose)
    for warning in report.warnings:
        typer.echo(f"normfold: warning: {plain(warning)}", err=True)
    skipped = sum(rule.status == "skipped" for rule in report.rules)
    if skipped:
        out.print(f"[dim]{len(report.rules) - skipped} rules looked at, {skipped} need data or a reference[/]")
    out.print(f"next: {safe(report.next_step, 400)}")
    if html is not None:
        out.print(f"report: {safe(str(html))}")


def _findings(out: Console, report: CheckReport, *, every: bool) -> None:
    """Findings of one code and severity together: the sentence is that of the first, the fix is told once."""
    groups: dict[tuple[str, str, bool, str], list[Finding]] = {}
    for finding in report.findings:
        key = (finding.code, finding.severity.value, finding.is_root_cause, finding.suppressed)
        groups.setdefault(key, []).append(finding)
    for (code, severity, cause, suppressed), findings in groups.items():
        note = f" [dim](suppressed: {safe(suppressed)})[/]" if suppressed else "" if cause else " [dim](collateral)[/]"
        colour = "dim" if suppressed else _COLOUR[severity]
        count = f" ×{len(findings)}" if len(findings) > 1 else ""
        out.print(f"[{colour}]{severity} {code}{count}[/]{note} {_sentence(findings[0])}")
        rest = findings[1:] if every else findings[1:_MOST_NODES] if severity != "info" else []
        for finding in rest:
            out.print(f"    {_sentence(finding)}")
        if len(findings) > len(rest) + 1:
            out.print(f"    [dim]and {len(findings) - len(rest) - 1} more (-v lists them)[/]")
        if not suppressed:
            out.print(f"    → {safe(findings[0].fix, 400)}")


def _sentence(finding: Finding) -> str:
    place = f"{safe(finding.node)}: " if finding.node else ""
    return f"{place}{safe(finding.message, 400)}"


def _layers(out: Console, report: CheckReport, *, every: bool) -> None:
    """Worst first; those of which nothing is to be said are counted only."""
    shown = sorted(
        report.layers, key=lambda layer: (_ORDER.index(layer.status.value), -(layer.j or 0.0), layer.position)
    )
    if not every:
        shown = [layer for layer in shown if layer.status.value in _ORDER[:3]][:_MOST_LAYERS]
    if not shown:
        return
    measured = any(layer.j is not None for layer in shown)
    predicted = any(layer.prediction is not None for layer in shown)
    table = Table(box=None, pad_edge=False)
    for title, wanted in _columns(measured, predicted):
        if wanted:
            table.add_column(title, overflow="fold")
    for layer in shown:
        table.add_row(*_row(layer, measured, predicted))
    out.print(table)
    if len(shown) < len(report.layers):
        out.print(f"[dim]{len(shown)} of {len(report.layers)} norms shown (-v lists all)[/]")


def _columns(measured: bool, predicted: bool) -> Sequence[tuple[str, bool]]:
    numbers = [(title, measured) for title in ("J", "shift σ", "var ratio", "n")]
    return (("layer", True), ("operator", True), ("status", True), ("channels", True), ("epsilon", True), *numbers,
            ("explained", predicted))  # fmt: skip


def _row(layer: LayerReport, measured: bool, predicted: bool) -> list[str]:
    status = layer.status.value
    note = " root cause" if layer.is_root_cause else " collateral" if layer.collateral_of else ""
    row = [
        safe(layer.node), safe(layer.op_type), f"[{_COLOUR[status]}]{status}[/]{note}",
        "" if layer.channel_count is None else str(layer.channel_count), _number(layer.epsilon),
    ]  # fmt: skip
    if measured:
        row += [_number(layer.j), _number(layer.mean_shift), _number(layer.variance_ratio)]
        row.append("" if layer.n is None else str(layer.n))
    if predicted:
        row.append("" if layer.prediction is None else _number(layer.prediction.correlation))
    return row


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
