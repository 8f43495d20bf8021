"""JUnit: one test case for each rule of the catalogue; what was found at or above the limit fails it."""

from __future__ import annotations

from xml.etree import ElementTree

from normfold.statistics.codes import RULES
from normfold.statistics.schema import CheckReport, Finding, RuleReport, Severity, Status


def junit(report: CheckReport, fail_on: str = "error") -> str:
    """The document.

    Args:
        report: of a check.
        fail_on: the mildest severity that fails a case; "never" fails none.
    """
    limit = -1 if fail_on == "never" else Severity(fail_on).rank
    path = report.input.path if report.input else ""
    suite = ElementTree.Element("testsuite", name=_clean(f"normfold check {path}"))
    for rule in report.rules:
        findings = [finding for finding in report.counted() if finding.code == rule.code]
        _case(suite, rule, findings, limit)
    cases = list(suite)
    suite.set("tests", str(len(cases)))
    suite.set("failures", str(sum(case.find("failure") is not None for case in cases)))
    suite.set("skipped", str(sum(case.find("skipped") is not None for case in cases)))
    suite.set("errors", "0")
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return ElementTree.tostring(root, "unicode", xml_declaration=True) + "\n"


def _case(suite: ElementTree.Element, rule: RuleReport, findings: list[Finding], limit: int) -> None:
    case = ElementTree.SubElement(
        suite, "testcase", classname="normfold.check", name=_clean(f"{rule.code} {RULES[rule.code].title}"), time="0"
    )
    failing = [finding for finding in findings if finding.is_root_cause and finding.severity.rank <= limit]
    if failing:
        failure = ElementTree.SubElement(case, "failure", type=rule.code, message=_clean(_line(failing[0])))
        failure.text = _clean("\n".join(f"{_line(finding)}. {finding.fix}" for finding in failing))
    elif rule.status is Status.SKIPPED:
        ElementTree.SubElement(case, "skipped", message=_clean(rule.reason))
    others = [finding for finding in findings if finding not in failing]
    if others:
        out = ElementTree.SubElement(case, "system-out")
        out.text = _clean("\n".join(f"{finding.severity}: {_line(finding)}" for finding in others))


def _line(finding: Finding) -> str:
    return f"{finding.node}: {finding.message}" if finding.node else finding.message


def _clean(text: str) -> str:
    """Text without what XML 1.0 cannot hold, which a node name may."""
    return "".join(
        c if c in "\t\n" or " " <= c <= "\ud7ff" or "\ue000" <= c <= "\ufffd" or c > "\uffff" else "�" for c in text
    )
