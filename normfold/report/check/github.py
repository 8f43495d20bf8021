"""Annotations of a GitHub workflow: one command line for each finding."""

from __future__ import annotations

from normfold.statistics.codes import RULES
from normfold.statistics.schema import CheckReport, Finding, Severity

_COMMAND = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}


def github(report: CheckReport) -> str:
    """The lines, and the verdict as the last one."""
    path = report.input.path if report.input else ""
    lines = [_annotation(finding, path) for finding in report.counted()]
    verdict = report.verdict.value if report.verdict else "error"
    return "\n".join([*lines, f"normfold check: {_data(verdict)}: {_data(report.summary)}"]) + "\n"


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
