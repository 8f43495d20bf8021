"""SARIF 2.1.0 for code scanning: one result for each finding, located by model file and node."""

from __future__ import annotations

import hashlib
import json
from typing import Any
from urllib.parse import quote

from normfold.statistics.bar import DEFAULT_BAR, Bar
from normfold.statistics.catalogue import CheckRule
from normfold.statistics.codes import RULES
from normfold.statistics.schema import CheckReport, Finding, Severity, Status

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVEL = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}


def sarif(report: CheckReport, bar: Bar = DEFAULT_BAR) -> str:
    """The document. What could not be decided is no result of a rule: it is a notification of the run."""
    used = [code for code in RULES if any(finding.code == code for finding in report.findings)]
    driver = {
        "name": "normfold",
        "semanticVersion": report.version,
        "rules": [_rule(RULES[code]) for code in used],
    }
    same: dict[str, int] = {}
    run: dict[str, Any] = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "invocations": [_invocation(report, bar)],
        "results": [_result(finding, report, used, same) for finding in report.findings],
    }
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2)


def _invocation(report: CheckReport, bar: Bar) -> dict[str, Any]:
    """How the run ended; it was successful if it came to a result, whatever that is."""
    notes = [{"level": "warning", "message": {"text": text}} for text in report.warnings]
    if report.verdict is Status.INCONCLUSIVE or bar.undecided(report):
        level = "error" if bar.undecided(report) else "note"
        notes.append({"level": level, "message": {"text": f"{report.summary} {report.next_step}"}})
    return {
        "executionSuccessful": True,
        "exitCode": bar.exit_code(report),
        "exitCodeDescription": bar.reason(report) or "nothing that counts was found",
        "toolExecutionNotifications": notes,
    }


def _rule(rule: CheckRule) -> dict[str, Any]:
    return {
        "id": rule.code,
        "name": "".join(part.capitalize() for part in rule.name.split("-")),
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.page},
        "help": {"text": rule.fix},
        "defaultConfiguration": {"level": _LEVEL[rule.severity]},
    }


def _result(finding: Finding, report: CheckReport, used: list[str], same: dict[str, int]) -> dict[str, Any]:
    path = report.input.path if report.input else ""
    artifact = {"uri": quote(path.replace("\\", "/"))}
    # There are no lines in a model; code scanning wants one all the same.
    location: dict[str, Any] = {"physicalLocation": {"artifactLocation": artifact, "region": {"startLine": 1}}}
    if finding.node:
        location["logicalLocations"] = [
            {"name": finding.node, "fullyQualifiedName": finding.key, "kind": "function"},
        ]
    result: dict[str, Any] = {
        "ruleId": finding.code,
        "ruleIndex": used.index(finding.code),
        "level": _LEVEL[finding.severity],
        "message": {"text": f"{_place(finding)}{finding.message}. {finding.fix}"},
        "locations": [location],
        # The same finding of the next run: the node is what stays, not the numbers.
        "partialFingerprints": {"normfold/v1": _fingerprint(finding, same)},
        "properties": {"rootCause": finding.is_root_cause},
    }
    if finding.suppressed:
        result["suppressions"] = [{"kind": "external", "justification": finding.suppressed}]
    return result


def _place(finding: Finding) -> str:
    return f"{finding.node}: " if finding.node else ""


def _fingerprint(finding: Finding, same: dict[str, int]) -> str:
    """Of a finding; those of one rule at one place are told apart by their order, or all but one would be hidden."""
    what = f"{finding.code}\0{finding.key}\0{finding.node}"
    count = same[what] = same.get(what, 0) + 1
    return hashlib.sha256((what if count == 1 else f"{what}\0{count}").encode()).hexdigest()[:32]
