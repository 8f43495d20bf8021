"""The report of `recalibrate`. Numbers that are not finite, or were not measured, are None."""

from __future__ import annotations

from typing import Literal

from normfold.documents import Document, ErrorReport, FileReport, Value

RECALIBRATE_SCHEMA_VERSION = "1.0"


class RepairedLayer(Value):
    """One normalisation.

    Args:
        node, key: label and stable key of the node.
        status: `repaired`; `kept`, with the reason, where its statistics stay as they are.
        j_before, j_after: on held-out data, with the old and with the new statistics (§5).
        n, n_eff: samples behind the new statistics, and the independent values that the poorest channel is worth.
        constant_channels: that do not vary on this data and keep their variance.
    """

    node: str
    key: str
    status: Literal["repaired", "kept"]
    reason: str = ""
    j_before: float | None = None
    j_after: float | None = None
    n: int | None = None
    n_eff: float | None = None
    constant_channels: int = 0


class RepairGate(Value):
    """What was asked on data that no statistic was estimated on.

    Args:
        j_before, j_after: of the worst layer.
        least_gain: the drop that was wanted.
        samples: that were held out.
        metric_before, metric_after: share of right answers, with labels; metric_interval 95 % of the difference.
        top1_changed: share of samples whose answer is another one now, None where the model does not classify.
    """

    accepted: bool
    reason: str = ""
    j_before: float | None = None
    j_after: float | None = None
    least_gain: float | None = None
    samples: int = 0
    metric_before: float | None = None
    metric_after: float | None = None
    metric_interval: tuple[float, float] | None = None
    top1_changed: float | None = None


class RecalibrateReport(Document):
    """Everything that one run of `recalibrate` has to say."""

    schema_version: str = RECALIBRATE_SCHEMA_VERSION
    command: Literal["recalibrate"] = "recalibrate"
    status: Literal["recalibrated", "restored", "refused", "error"] = "recalibrated"
    input: FileReport | None = None
    output: FileReport | None = None
    undo: str | None = None
    data: str = ""
    data_sha256: str = ""
    variance: Literal["population", "unbiased"] = "population"
    prior: float = 0.0
    passes: int = 0
    layers: tuple[RepairedLayer, ...] = ()
    gate: RepairGate | None = None
    warnings: tuple[str, ...] = ()
    error: ErrorReport | None = None
