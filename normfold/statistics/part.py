"""What an examiner hands back. `normfold.checking` puts the parts together, in the order in which they were made."""

from __future__ import annotations

from dataclasses import dataclass, field

from normfold.statistics.schema import (
    DataReport,
    Finding,
    LayerReport,
    OutcomeReport,
    PreprocessingReport,
    ProbeReport,
    ReferenceReport,
    RuleReport,
)


@dataclass(frozen=True, slots=True)
class Part:
    """Results of one examiner.

    Args:
        findings: in any order.
        layers: by key of the site. A later part replaces the layers of an earlier one, field by field where it has a value.
        rules: rules that this examiner is responsible for; SKIPPED with a reason where one did not run.
        data, outcome: at most one examiner has them. preprocessing: that of the last part that has one counts; the file alone
            gives the implied mean, which a later one repeats.
        warnings: one line each, for people.
    """

    findings: tuple[Finding, ...] = ()
    layers: dict[str, LayerReport] = field(default_factory=dict)
    rules: tuple[RuleReport, ...] = ()
    data: DataReport | None = None
    probes: tuple[ProbeReport, ...] = ()
    preprocessing: PreprocessingReport | None = None
    outcome: OutcomeReport | None = None
    references: tuple[ReferenceReport, ...] = ()
    warnings: tuple[str, ...] = ()
