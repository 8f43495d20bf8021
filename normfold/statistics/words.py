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
        return _cause(causes, report.layers)
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


def _cause(causes: Sequence[Finding], layers: Sequence[LayerReport]) -> str:
    """The worst finding in one sentence, and in how many layers it was found."""
    first = causes[0]
    title = RULES[first.code].title
    nodes = [f.node for f in causes if (f.code, f.severity) == (first.code, first.severity) and f.node]
    total = sum(layer.op_type == _BATCH_NORM for layer in layers)
    many = f" in {len(nodes)} of {total} layers" if 1 < len(nodes) <= total else ""
    place = f"{'first ' if len(nodes) > 1 else ''}{first.node}: " if first.node else ""
    return f"{title[0].upper()}{title[1:]} ({first.code}){many}: {place}{first.message}."


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
