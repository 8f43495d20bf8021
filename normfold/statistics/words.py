"""The sentence at the top of a report, and the one that says what to do now."""

from __future__ import annotations

from collections.abc import Sequence

from normfold.statistics.codes import RULES
from normfold.statistics.schema import CheckReport, Finding, LayerReport, Status

_BATCH_NORM = "BatchNormalization"


def summary(report: CheckReport) -> str:
    """Root cause and evidence, or why there is none."""
    causes = [finding for finding in report.counted() if finding.is_root_cause]
    if report.verdict in (Status.FAIL, Status.WARN):
        first = causes[0]
        alike = [finding for finding in causes if finding.code == first.code]
        title = RULES[first.code].title
        return f"{title[0].upper()}{title[1:]} ({first.code}): {_where(alike, report.layers)}{first.message}."
    with_statistics = [layer for layer in report.layers if layer.op_type == _BATCH_NORM]
    if report.verdict is Status.INCONCLUSIVE:
        return _undecided(report)
    if not with_statistics:
        others = len(report.layers)
        what = f"{_count(others, 'norm')} without stored statistics" if others else "no norms"
        return f"Nothing wrong was found: {what}."
    what = _count(len(with_statistics), _BATCH_NORM)
    if report.data is None:
        return f"Nothing wrong was found in the file: {what}; whether the statistics fit your data was not measured."
    return f"The statistics fit the data: {what}, {_count(report.data.samples, 'sample')}."


def _undecided(report: CheckReport) -> str:
    open_ = [layer for layer in report.layers if layer.status is Status.INCONCLUSIVE]
    if not open_:
        return "No statistics in this file: whether they fit cannot be told from it."
    return f"Nothing wrong was shown, but {_count(len(open_), 'layer')} of {len(report.layers)} could not be decided."


def next_step(report: CheckReport) -> str:
    """What to do now."""
    causes = [finding for finding in report.counted() if finding.is_root_cause]
    if report.verdict in (Status.FAIL, Status.WARN):
        return causes[0].fix
    needed = [layer.samples_needed for layer in report.layers if layer.samples_needed]
    if report.verdict is Status.INCONCLUSIVE and needed:
        return f"Run it again with about {max(needed)} samples."
    if report.verdict is Status.INCONCLUSIVE:
        return RULES["N01"].fix
    if report.data is None and any(layer.op_type == _BATCH_NORM for layer in report.layers):
        return "Run it again with --data to measure whether the statistics fit."
    return "Nothing to do."


def _where(findings: Sequence[Finding], layers: Sequence[LayerReport]) -> str:
    """Which nodes, for the start of a sentence."""
    nodes = [finding.node for finding in findings if finding.node]
    if not nodes:
        return ""
    if len(nodes) == 1:
        return f"{nodes[0]}: "
    total = sum(layer.op_type == _BATCH_NORM for layer in layers)
    of = f" of {total}" if total >= len(nodes) else ""
    return f"{nodes[0]} and {len(nodes) - 1} more{of}: "


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
