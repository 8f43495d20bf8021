"""The report of `check`: one frozen value, many renderings.

Produced by `normfold.checking.check`, which puts together the `Part`s that the examiners return (`from_file`, `with_data`,
`with_reference`). Consumed by the command line, by `normfold.report.check` (HTML, SARIF, JUnit) and by pipelines as JSON.
Numbers that are not finite, or were not measured, are None: JSON has no NaN.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from normfold.documents import Document, ErrorReport, FileReport, Text, Value
from normfold.statistics.thresholds import Thresholds

# Of this document alone: additions raise the minor number, what could break a reader the major one.
CHECK_SCHEMA_VERSION = "1.0"

Vector = tuple[float | None, ...]
Interval = tuple[float, float]


class Severity(StrEnum):
    """How bad a finding is; the order is that of `rank`."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"

    @property
    def rank(self) -> int:
        """0 for the worst."""
        return list(Severity).index(self)


class Status(StrEnum):
    """What is known of a layer, a rule, or the whole model."""

    PASS = "pass"  # nothing wrong was found; with data: equivalence was shown
    WARN = "warn"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"  # too little data or no statistics to look at: this is no pass
    SKIPPED = "skipped"  # did not run, and the report says why
    NOT_APPLICABLE = "not-applicable"  # a norm without stored statistics


class Origin(StrEnum):
    """What a finding rests on."""

    FILE = "file"
    DATA = "data"
    REFERENCE = "reference"  # a checkpoint, a manifest or a baseline


class Evidence(Value):
    """One number that a finding rests on.

    Args:
        name: what was measured, in words.
        value: the number.
        threshold: what it was held against.
        interval: 95 % confidence interval.
        n: samples behind it; `n_eff` independent values that they are worth.
    """

    name: str
    value: float | None
    threshold: float | None = None
    interval: Interval | None = None
    n: int | None = None
    n_eff: float | None = None


class Finding(Value):
    """One thing that is wrong, or worth knowing.

    Args:
        code: of the catalogue, `normfold.statistics.codes`.
        node: label of the node as people know it; "" for the model as a whole.
        key: stable key of the node, "" for the model.
        message: one sentence, what is wrong, with numbers.
        fix: one sentence, what to do.
        is_root_cause: False where the shift comes from a layer before; then `collateral_of` is the key of that layer.
        nodes: labels of further nodes that it is about.
        channels: how many channels are concerned, None where that has no meaning.
        suppressed: the reason in the suppressions file, "" where the finding counts.
    """

    code: str
    severity: Severity
    node: str
    key: str
    message: str
    fix: str
    origin: Origin = Origin.FILE
    is_root_cause: bool = True
    collateral_of: str | None = None
    nodes: tuple[str, ...] = ()
    channels: int | None = None
    evidence: tuple[Evidence, ...] = ()
    suppressed: str = ""


class ChannelReport(Value):
    """Per channel, for plots and for who wants to look closer; every array is `[C]`.

    Stored parameters come from the file; `measured_*` and `j` from data; `predicted_mean` from the data-free predictor.
    """

    gamma: Vector = ()
    beta: Vector = ()
    mean: Vector = ()
    var: Vector = ()
    measured_mean: Vector = ()
    measured_var: Vector = ()
    predicted_mean: Vector = ()
    j: Vector = ()


class PredictionReport(Value):
    """How well the weights before a layer explain its stored mean, without any data (statistics of §9 kind).

    Args:
        r2: 1 − Σ(μ−μ̂)²/Σ(μ−mean μ)².
        correlation: of stored and predicted means over channels.
        slope: a = Σμμ̂/Σμ̂².
    """

    r2: float | None
    correlation: float | None
    slope: float | None


class LayerReport(Value):
    """One normalisation.

    Args:
        node, key: label and stable key of the node.
        op_type: operator.
        position: in execution order, from 0.
        status: SKIPPED without data (`reason` says so), NOT_APPLICABLE for norms without stored statistics.
        epsilon: as stored.
        channel_count: C; None where it is not known.
        j: γ²-weighted median over channels of the symmetric Kullback-Leibler divergence (§5).
        mean_shift: γ²-weighted median of d = |m̂ − μ|/√V, in standard deviations.
        mean_shift_interval: 95 %, of the signed shift (m̂ − μ)/√V of the channel with the largest |shift|.
        log_std_ratio: γ²-weighted median of ρ = ½ ln(V̂/V).
        log_std_ratio_interval: 95 %, of ρ of the channel with the largest |ρ|.
        variance_ratio: exp(2ρ) of that median: measured over stored variance, epsilon included.
        bad_channels: share of channels with J at or above the FAIL limit and significant.
        n: samples; n_eff: smallest number of independent values over the channels.
        samples_needed: for an INCONCLUSIVE layer, about how many samples would settle it.
        is_root_cause, collateral_of: as in `Finding`.
    """

    node: str
    key: str
    op_type: str
    position: int
    status: Status
    reason: str = ""
    epsilon: float | None = None
    channel_count: int | None = None
    j: float | None = None
    mean_shift: float | None = None
    mean_shift_interval: Interval | None = None
    log_std_ratio: float | None = None
    log_std_ratio_interval: Interval | None = None
    variance_ratio: float | None = None
    bad_channels: float | None = None
    n: int | None = None
    n_eff: float | None = None
    samples_needed: int | None = None
    is_root_cause: bool = False
    collateral_of: str | None = None
    prediction: PredictionReport | None = None
    channels: ChannelReport | None = None


class RuleReport(Value):
    """Whether a rule ran: one that did not says why."""

    code: str
    status: Status
    reason: str = ""


class ProbeReport(Value):
    """Determinism or batch invariance: the same input must give the same answer."""

    name: Literal["determinism", "batch-invariance"]
    status: Status
    reason: str = ""
    output: str = ""
    max_abs: float | None = None
    noise_floor: float | None = None


class HypothesisReport(Value):
    """A transform of the input that was tried."""

    name: str
    score: float | None
    ratio: float | None = None


class PreprocessingReport(Value):
    """What the first layers say about the input (§8).

    Args:
        implied_mean: per input channel, solved from the first convolution; r2 of that solution.
        global_scale: factor by which the input is too large or too small, None where there is none.
        hypotheses: transforms by median J at the first layers, best first.
        winner: name of the transform that explains the data, "" where none does.
        not_identifiable: what cannot be told from this data.
    """

    status: Status
    reason: str = ""
    implied_mean: Vector = ()
    implied_r2: float | None = None
    global_scale: float | None = None
    hypotheses: tuple[HypothesisReport, ...] = ()
    winner: str = ""
    not_identifiable: tuple[str, ...] = ()


class OutcomeReport(Value):
    """What the mismatch does to the answers: stored against re-estimated statistics."""

    top1_disagreement: float | None = None
    information_eval: float | None = None
    information_batch: float | None = None


class DataReport(Value):
    """The data that was run.

    Args:
        samples, batches, batch_size, groups: counts; `groups` None without a group key.
        shuffling: R of D03, about 1 for shuffled data; `shuffling_limit` what it is held against.
        between_share: ψ, median over channels and layers.
        sha256: of what was fed, in order; "" where it was not computed.
    """

    source: str
    samples: int
    batches: int
    batch_size: int
    groups: int | None = None
    seed: int | None = None
    shuffling: float | None = None
    shuffling_limit: float | None = None
    between_share: float | None = None
    sha256: str = ""


class ReferenceReport(Value):
    """A checkpoint, manifest or baseline that the file was held against."""

    kind: Literal["checkpoint", "manifest", "baseline"]
    path: Text
    sha256: str | None = None
    matched: int = 0
    unmatched: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


class SuppressionReport(Value):
    """An entry of the suppressions file, and how often it applied."""

    code: str
    node: str
    reason: str
    used: int


class CheckReport(Document):
    """Everything that one run of `check` has to say.

    Args:
        verdict: PASS, WARN, FAIL or INCONCLUSIVE: the worst root cause; inconclusive where nothing could be judged; None
            where `error` says why.
        summary: one sentence: root cause, evidence, fix.
        next_step: one sentence: what to do now.
        findings: root causes first, worst first; what is suppressed is listed last and does not count.
        layers: norms in execution order.
        rules: every rule of the catalogue, whether it ran.
    """

    schema_version: str = CHECK_SCHEMA_VERSION
    command: Literal["check"] = "check"
    input: FileReport | None = None
    verdict: Status | None = None
    summary: str = ""
    next_step: str = ""
    findings: tuple[Finding, ...] = ()
    layers: tuple[LayerReport, ...] = ()
    rules: tuple[RuleReport, ...] = ()
    data: DataReport | None = None
    probes: tuple[ProbeReport, ...] = ()
    preprocessing: PreprocessingReport | None = None
    outcome: OutcomeReport | None = None
    references: tuple[ReferenceReport, ...] = ()
    suppressions: tuple[SuppressionReport, ...] = ()
    thresholds: Thresholds | None = None
    warnings: tuple[str, ...] = ()
    error: ErrorReport | None = None

    def counted(self) -> tuple[Finding, ...]:
        """The findings that are not suppressed."""
        return tuple(finding for finding in self.findings if not finding.suppressed)
