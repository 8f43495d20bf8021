"""The first examiner: everything that the file alone tells."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from normfold.statistics.file_rules.decomposed import batch_statistics
from normfold.statistics.file_rules.epsilons import epsilon_anomalies, stateless_epsilons
from normfold.statistics.file_rules.modes import training_mode
from normfold.statistics.file_rules.predictor import Prediction, judge, predict
from normfold.statistics.file_rules.randomness import random_operators
from normfold.statistics.file_rules.sharing import no_statistics, not_constant, shared, swapped_momentum
from normfold.statistics.file_rules.values import (
    dead_channels,
    half_range,
    negative_variance,
    never_updated,
    not_finite,
    partly_updated,
)
from normfold.statistics.part import Part
from normfold.statistics.schema import (
    ChannelReport,
    Finding,
    LayerReport,
    PredictionReport,
    RuleReport,
    Severity,
    Status,
)
from normfold.statistics.sites import StatelessSite, StatSite
from normfold.statistics.subject import Subject
from normfold.statistics.thresholds import Thresholds
from normfold.statistics.vectors import number, vector

Check = Callable[[Subject, Thresholds], Iterable[Finding]]

# Each with the codes that it is responsible for.
CHECKS: tuple[tuple[tuple[str, ...], Check], ...] = (
    (("M01", "M02", "M03"), training_mode),
    (("M04",), batch_statistics),
    (("M05",), random_operators),
    (("S01",), never_updated),
    (("S02",), not_finite),
    (("S03",), negative_variance),
    (("S04",), dead_channels),
    (("S05",), half_range),
    (("S06",), epsilon_anomalies),
    (("S07",), partly_updated),
    (("S08", "S13"), shared),
    (("S11",), swapped_momentum),
    (("S16",), not_constant),
    (("N01",), no_statistics),
    (("N02", "N03"), stateless_epsilons),
)
PREDICTED = ("S09", "S10", "S13")


def from_file(subject: Subject, thresholds: Thresholds) -> Part:
    """Findings, the layers as they are stored, and which rules ran."""
    predictions = predict(subject)
    checks = (*CHECKS, (PREDICTED, lambda _, limits: judge(predictions, limits)))
    findings: list[Finding] = []
    ran: dict[str, list[Finding]] = {}
    for codes, examine in checks:
        found = list(examine(subject, thresholds))
        findings += found
        for code in codes:
            ran.setdefault(code, []).extend(item for item in found if item.code == code)
    by_key = {prediction.site.key: prediction for prediction in predictions}
    return Part(
        findings=tuple(findings),
        layers={norm.key: _layer(norm, by_key.get(norm.key)) for norm in subject.norms},
        rules=tuple(RuleReport(code=code, status=_status(found)) for code, found in ran.items()),
    )


def _status(found: list[Finding]) -> Status:
    severities = {finding.severity for finding in found}
    if Severity.ERROR in severities:
        return Status.FAIL
    return Status.WARN if Severity.WARNING in severities else Status.PASS


def _layer(norm: StatSite | StatelessSite, prediction: Prediction | None) -> LayerReport:
    if isinstance(norm, StatelessSite):
        return LayerReport(
            node=norm.label, key=norm.key, op_type=norm.op_type, position=norm.position, status=Status.NOT_APPLICABLE,
            reason="statistics come from the sample itself", epsilon=norm.epsilon,
        )  # fmt: skip
    reason = "not measured: no data" if norm.has_statistics else "no stored statistics that can be read"
    channels = ChannelReport(
        gamma=vector(norm.gamma),
        beta=vector(norm.beta),
        mean=vector(norm.mean),
        var=vector(norm.var),
        predicted_mean=() if prediction is None else vector(prediction.predicted),
    )
    return LayerReport(
        node=norm.label, key=norm.key, op_type=norm.node.op_type, position=norm.position, status=Status.SKIPPED,
        reason=reason, epsilon=norm.epsilon, channel_count=norm.channels, channels=channels,
        prediction=None if prediction is None else _prediction(prediction),
    )  # fmt: skip


def _prediction(found: Prediction) -> PredictionReport:
    return PredictionReport(r2=number(found.r2), correlation=number(found.correlation), slope=number(found.slope))
