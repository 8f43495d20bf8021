"""SARIF 2.1.0 for code scanning: one result for each finding, located by model file and node."""

from __future__ import annotations

import hashlib
import json
from typing import Any
from urllib.parse import quote

from normfold.statistics.codes import RULES, CheckRule
from normfold.statistics.schema import CheckReport, Finding, Severity

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVEL = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}


def sarif(report: CheckReport) -> str:
    """The document."""
    used = [code for code in RULES if any(finding.code == code for finding in report.findings)]
    driver = {
        "name": "normfold",
        "semanticVersion": report.version,
        "rules": [_rule(RULES[code]) for code in used],
    }
    run: dict[str, Any] = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [_result(finding, report, used) for finding in report.findings],
    }
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2)


def _rule(rule: CheckRule) -> dict[str, Any]:
    return {
        "id": rule.code,
        "name": "".join(part.capitalize() for part in rule.name.split("-")),
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.page},
        "help": {"text": rule.fix},
        "defaultConfiguration": {"level": _LEVEL[rule.severity]},
    }


def _result(finding: Finding, report: CheckReport, used: list[str]) -> dict[str, Any]:
    path = report.input.path if report.input else ""
    location: dict[str, Any] = {"physicalLocation": {"artifactLocation": {"uri": quote(path.replace("\\", "/"))}}}
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
        "partialFingerprints": {"normfold/v1": _fingerprint(finding)},
        "properties": {"rootCause": finding.is_root_cause},
    }
    if finding.suppressed:
        result["suppressions"] = [{"kind": "external", "justification": finding.suppressed}]
    return result


def _place(finding: Finding) -> str:
    return f"{finding.node}: " if finding.node else ""


def _fingerprint(finding: Finding) -> str:
    return hashlib.sha256(f"{finding.code}\0{finding.key}\0{finding.node}".encode()).hexdigest()[:32]
