"""JUnit: a test case for each rule, failed by what was found at or above the limit, and one for the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from normfold.statistics.bar import DEFAULT_BAR, Bar
from normfold.statistics.codes import RULES
from normfold.statistics.schema import CheckReport, Finding, RuleReport, Status


def junit(report: CheckReport, bar: Bar = DEFAULT_BAR) -> str:
    """The document; it has a failure if and only if the exit code is 1.

    Args:
        report: of a check.
        bar: what it is held against.
    """
    path = report.input.path if report.input else ""
    suite = ElementTree.Element("testsuite", name=_clean(f"normfold check {path}"))
    failing = bar.failing(report)
    for rule in report.rules:
        findings = [finding for finding in report.counted() if finding.code == rule.code]
        _case(suite, rule, findings, failing)
    _decided(suite, report, bar)
    cases = list(suite)
    suite.set("tests", str(len(cases)))
    suite.set("failures", str(sum(case.find("failure") is not None for case in cases)))
    suite.set("skipped", str(sum(case.find("skipped") is not None for case in cases)))
    suite.set("errors", "0")
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return ElementTree.tostring(root, "unicode", xml_declaration=True) + "\n"


def _case(
    suite: ElementTree.Element, rule: RuleReport, findings: Sequence[Finding], counted: Sequence[Finding]
) -> None:
    case = ElementTree.SubElement(
        suite, "testcase", classname="normfold.check", name=_clean(f"{rule.code} {RULES[rule.code].title}"), time="0"
    )
    failing = [finding for finding in findings if finding in counted]
    if failing:
        failure = ElementTree.SubElement(case, "failure", type=rule.code, message=_clean(_line(failing[0])))
        failure.text = _clean("\n".join(f"{_line(finding)}. {finding.fix}" for finding in failing))
    elif rule.status is Status.SKIPPED:
        ElementTree.SubElement(case, "skipped", message=_clean(rule.reason))
    others = [finding for finding in findings if finding not in failing]
    if others:
        out = ElementTree.SubElement(case, "system-out")
        out.text = _clean("\n".join(f"{finding.severity}: {_line(finding)}" for finding in others))


def _decided(suite: ElementTree.Element, report: CheckReport, bar: Bar) -> None:
    """A case of its own for what no rule stands for: whether there was enough to decide."""
    case = ElementTree.SubElement(suite, "testcase", classname="normfold.check", name="verdict", time="0")
    text = _clean(f"{report.summary} {report.next_step}")
    if bar.undecided(report):
        ElementTree.SubElement(case, "failure", type="inconclusive", message=_clean(report.summary)).text = text
    else:
        ElementTree.SubElement(case, "system-out").text = text


def _line(finding: Finding) -> str:
    return f"{finding.node}: {finding.message}" if finding.node else finding.message


def _clean(text: str) -> str:
    """Text without what XML 1.0 cannot hold, which a node name may."""
    return "".join(
        c if c in "\t\n" or " " <= c <= "\ud7ff" or "\ue000" <= c <= "\ufffd" or c > "\uffff" else "�" for c in text
    )
