"""The first examiner: everything that the file alone tells."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from normfold.statistics.part import Part
from normfold.statistics.schema import ChannelReport, Finding, LayerReport, RuleReport, Severity, Status
from normfold.statistics.sites import StatelessSite, StatSite
from normfold.statistics.subject import Subject
from normfold.statistics.thresholds import Thresholds
from normfold.statistics.vectors import vector

Check = Callable[[Subject, Thresholds], Iterable[Finding]]

# Each with the codes that it is responsible for.
_CHECKS: tuple[tuple[tuple[str, ...], Check], ...] = ()


def from_file(subject: Subject, thresholds: Thresholds) -> Part:
    """Findings, the layers as they are stored, and which rules ran."""
    findings: list[Finding] = []
    ran: dict[str, list[Finding]] = {}
    for codes, examine in _CHECKS:
        found = list(examine(subject, thresholds))
        findings += found
        for code in codes:
            ran.setdefault(code, []).extend(item for item in found if item.code == code)
    return Part(
        findings=tuple(findings),
        layers={norm.key: _layer(norm) for norm in subject.norms},
        rules=tuple(RuleReport(code=code, status=_status(found)) for code, found in ran.items()),
    )


def _status(found: list[Finding]) -> Status:
    severities = {finding.severity for finding in found}
    if Severity.ERROR in severities:
        return Status.FAIL
    return Status.WARN if Severity.WARNING in severities else Status.PASS


def _layer(norm: StatSite | StatelessSite) -> LayerReport:
    if isinstance(norm, StatelessSite):
        return LayerReport(
            node=norm.label, key=norm.key, op_type=norm.op_type, position=norm.position, status=Status.NOT_APPLICABLE,
            reason="statistics come from the sample itself", epsilon=norm.epsilon,
        )  # fmt: skip
    reason = "not measured: no data" if norm.has_statistics else "no stored statistics that can be read"
    channels = ChannelReport(
        gamma=vector(norm.gamma), beta=vector(norm.beta), mean=vector(norm.mean), var=vector(norm.var)
    )
    return LayerReport(
        node=norm.label, key=norm.key, op_type=norm.node.op_type, position=norm.position, status=Status.SKIPPED,
        reason=reason, epsilon=norm.epsilon, channel_count=norm.channels, channels=channels,
    )  # fmt: skip
