"""Annotations of a GitHub workflow: one command line for each finding."""

from __future__ import annotations

from normfold.statistics.bar import DEFAULT_BAR, Bar
from normfold.statistics.codes import RULES
from normfold.statistics.schema import CheckReport, Finding, Severity

_COMMAND = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}


def github(report: CheckReport, bar: Bar = DEFAULT_BAR) -> str:
    """The lines, and as the last ones the verdict and why the step fails, if it does."""
    path = report.input.path if report.input else ""
    lines = [_annotation(finding, path) for finding in report.counted()]
    if bar.undecided(report):
        text = _data(f"{report.summary} {report.next_step}")
        lines.append(f"::error file={_property(path)},title=inconclusive::{text}")
    verdict = report.verdict.value if report.verdict else "error"
    lines.append(f"normfold check: {_data(verdict)}: {_data(report.summary)}")
    reason = bar.reason(report)
    if reason:
        lines.append(f"normfold check: failed: {_data(reason)}")
    return "\n".join(lines) + "\n"


def _annotation(finding: Finding, path: str) -> str:
    title = f"{finding.code} {RULES[finding.code].title}"
    place = f"{finding.node}: " if finding.node else ""
    text = f"{place}{finding.message}. {finding.fix}"
    return f"::{_COMMAND[finding.severity]} file={_property(path)},title={_property(title)}::{_data(text)}"


def _data(text: str) -> str:
    """A node name with a line break must not become a command of its own."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
