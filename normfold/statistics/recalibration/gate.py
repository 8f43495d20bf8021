"""Does a repair help, on data that it was not made from?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from normfold.statistics.collect import Array, Collected
from normfold.statistics.recalibration.labels import require_classes
from normfold.statistics.recalibration.schema import RepairGate
from normfold.statistics.recalibration.scores import layer_scores, noise
from normfold.statistics.sites import StatSite


@dataclass(frozen=True, slots=True)
class Judged:
    """The gate, and J of each layer before and after, by its label."""

    gate: RepairGate
    before: dict[str, float]
    after: dict[str, float]


def judge(
    sites_before: Mapping[str, StatSite],
    before: Collected,
    sites_after: Mapping[str, StatSite],
    after: Collected,
    *,
    min_gain: float,
    labels: Array | None = None,
) -> Judged:
    """Whether the repaired model fits held-out data better.

    The worst layer must improve by more than sampling explains, and with labels the share of right answers must not fall
    (§11).

    Args:
        sites_before, sites_after: by key, of the original and of the repaired model as it was written.
        before, after: the same held-out data through each.
        min_gain: smallest drop of J that counts.
        labels: class of each held-out sample.

    Raises:
        InputError: `data.labels`, the model has no such classes.
    """
    if labels is not None:
        require_classes(labels, before)
    old, new = _by_label(sites_before, before), _by_label(sites_after, after)
    j_before, j_after = (max(scores.values(), default=0.0) for scores in (old, new))
    least = max(min_gain, max((noise(sites_after[k], m.estimate()) for k, m in after.moments.items()), default=0.0))
    reason = ""
    if not j_before - j_after >= least:
        reason = (
            f"J of the worst layer goes from {j_before:.3g} to {j_after:.3g} on held-out data; "
            f"a drop of {least:.2g} was wanted"
        )
    metric = _metric(before, after, labels)
    if metric is not None and metric[2][1] < 0:
        low, high = metric[2]
        reason = f"right answers fall from {metric[0]:.1%} to {metric[1]:.1%} (95 % interval {low:+.1%} to {high:+.1%})"
    gate = RepairGate(
        accepted=not reason,
        reason=reason,
        j_before=_finite(j_before),
        j_after=_finite(j_after),
        least_gain=least,
        samples=after.samples,
        metric_before=None if metric is None else metric[0],
        metric_after=None if metric is None else metric[1],
        metric_interval=None if metric is None else metric[2],
        top1_changed=_changed(before, after),
    )
    return Judged(gate, old, new)


def _by_label(sites: Mapping[str, StatSite], found: Collected) -> dict[str, float]:
    return {sites[key].label: score for key, score in layer_scores(sites, found.moments).items()}


def _answers(found: Collected) -> Array | None:
    """Predicted classes, where the first output has scores of several classes."""
    scores: Sequence[Array] = list(found.outputs.values())
    if not scores or scores[0].ndim != 2 or scores[0].shape[1] < 2:
        return None
    answers: Array = np.asarray(scores[0]).argmax(axis=1)
    return answers


def _changed(before: Collected, after: Collected) -> float | None:
    one, other = _answers(before), _answers(after)
    return None if one is None or other is None or len(one) != len(other) else float(np.mean(one != other))


def _metric(
    before: Collected, after: Collected, labels: Array | None
) -> tuple[float, float, tuple[float, float]] | None:
    """Share of right answers before and after, and the interval of the paired difference."""
    one, other = _answers(before), _answers(after)
    if labels is None or one is None or other is None:
        return None
    n = min(len(one), len(other), len(labels))
    right, now = one[:n] == labels[:n], other[:n] == labels[:n]
    change = now.astype(np.float64) - right
    error = 1.96 * float(change.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    return float(right.mean()), float(now.mean()), (float(change.mean()) - error, float(change.mean()) + error)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
