"""PASS, WARN, FAIL or INCONCLUSIVE per layer (§5, §6.2)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from normfold.statistics.exact_sums import Float64
from normfold.statistics.judging.distributions import t_quantile, weighted_quantile
from normfold.statistics.judging.effects import Effect, Significance, significance
from normfold.statistics.schema import Interval, Status
from normfold.statistics.thresholds import Thresholds

_BANDS = (None, Status.WARN, Status.FAIL)


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """What is known of a layer.

    Args:
        effect, significance: what it rests on.
        status: of the layer; reason: why, where numbers do not say it.
        j, mean_shift, log_std_ratio: γ²-weighted medians of J, |shift| and signed ρ.
        mean_shift_interval, log_std_ratio_interval: of the channel with the largest effect.
        bad_channels: share of channels with J in the FAIL band and significant.
        samples_needed: about how many would settle it, None where it is settled.
    """

    effect: Effect
    significance: Significance
    status: Status
    reason: str
    j: float
    mean_shift: float
    log_std_ratio: float
    mean_shift_interval: Interval | None
    log_std_ratio_interval: Interval | None
    bad_channels: float
    samples_needed: int | None

    @property
    def shifted(self) -> bool:
        """Whether it shows a significant effect in one of the bands."""
        return self.status in (Status.WARN, Status.FAIL)


def verdicts(effects: Mapping[str, Effect], thresholds: Thresholds) -> dict[str, Verdict]:
    """Judge all layers of a model together; significance is controlled over all of them."""
    found = significance(effects, thresholds.false_discovery_rate)
    return {key: _verdict(e, found[key], thresholds) for key, e in effects.items()}


def _verdict(e: Effect, significant: Significance, t: Thresholds) -> Verdict:
    bad = _bad_channels(e, significant, t)
    status, reason = _status(e, significant, bad, t)
    needed = samples_needed(e, t) if status is Status.INCONCLUSIVE else None
    half = t_quantile(t.confidence, e.estimate.clusters - 1)
    return Verdict(
        e, significant, status, reason, weighted_quantile(e.j, e.weight), weighted_quantile(np.abs(e.shift), e.weight),
        weighted_quantile(e.log_std, e.weight), _interval(e.shift, e.shift_se, e.weight, half),
        _interval(e.log_std, e.log_std_se, e.weight, half), bad, needed,
    )  # fmt: skip


def _bad_channels(e: Effect, significant: Significance, t: Thresholds) -> float:
    used = e.weight > 0
    bad = (e.j >= t.j_fail) & significant.any & used
    return float(bad.sum() / max(int(used.sum()), 1))


def _status(e: Effect, significant: Significance, bad: float, t: Thresholds) -> tuple[Status, str]:
    lost = int(e.estimate.non_finite.max(initial=0))
    if lost:
        return Status.FAIL, f"its input is NaN or infinite in {lost} of {e.estimate.samples} samples"
    sure = max(
        _band(_median(e, e.j, significant.any), t.j_warn, t.j_fail),
        _band(_median(e, np.abs(e.shift), significant.shift), t.mean_shift_warn, t.mean_shift_fail),
        _band(_median(e, np.abs(e.log_std), significant.log_std), t.log_std_ratio_warn, t.log_std_ratio_fail),
        _band(bad, t.bad_channels_warn, t.bad_channels_fail),
    )
    found = _BANDS[sure]
    if found is not None:
        return found, ""
    suspected = max(
        _band(_median(e, e.j), t.j_warn, t.j_fail),
        _band(_median(e, np.abs(e.shift)), t.mean_shift_warn, t.mean_shift_fail),
        _band(_median(e, np.abs(e.log_std)), t.log_std_ratio_warn, t.log_std_ratio_fail),
    )
    if not suspected and _equivalent(e, t):
        return Status.PASS, ""
    if e.estimate.clusters < 2:
        return Status.INCONCLUSIVE, "one sample tells nothing"
    if not suspected and not _can_be_equivalent(e, t):
        return Status.INCONCLUSIVE, "the effect is small, but lies at the limit in too many channels"
    return Status.INCONCLUSIVE, "too few samples to tell"


def _median(e: Effect, values: Float64, significant: NDArray[np.bool_] | bool = True) -> float:
    """Weighted median; what is not significant counts as no effect, so that it takes most of the weight to have one."""
    return weighted_quantile(np.where(significant, values, 0.0), e.weight)


def _band(value: float, warn: float, fail: float) -> int:
    return 2 if value >= fail else 1 if value >= warn else 0


def _equivalent(e: Effect, t: Thresholds) -> bool:
    """Two one-sided tests per channel, for channels that carry most of the weight."""
    half = t_quantile(t.confidence, e.estimate.clusters - 1)
    shown = (np.abs(e.shift) + half * e.shift_se <= t.equivalence_mean) & (
        np.abs(e.log_std) + half * e.log_std_se <= t.equivalence_log_std
    )
    return bool(e.weight[shown].sum() >= t.equivalence_share * e.weight.sum())


def _can_be_equivalent(e: Effect, t: Thresholds) -> bool:
    """Whether more samples could show equivalence: not if effects at or above the limit are certain."""
    half = t_quantile(t.confidence, e.estimate.clusters - 1)
    inside = (_certain(e.shift, e.shift_se, half) < t.equivalence_mean) & (
        _certain(e.log_std, e.log_std_se, half) < t.equivalence_log_std
    )
    return bool(e.weight[inside].sum() >= t.equivalence_share * e.weight.sum())


def _certain(value: Float64, error: Float64, half: float) -> Float64:
    """How large an effect is at least."""
    with np.errstate(invalid="ignore"):
        return np.maximum(np.abs(value) - half * error, 0.0)


def samples_needed(e: Effect, t: Thresholds) -> int | None:
    """About how many samples would show equivalence, if the effects stay as they are (§6.2); None where that is not known.

    With no effect this is (1.96·s/0.05)²: half of the margin is left for the interval.
    """
    clusters = e.estimate.clusters
    half = t_quantile(t.confidence, clusters - 1)
    if not math.isfinite(half) or not _can_be_equivalent(e, t):
        return None
    counts = [
        _count(e.shift, e.shift_se, t.equivalence_mean, half, clusters),
        _count(e.log_std, e.log_std_se, t.equivalence_log_std, half, clusters),
    ]
    wanted = max(weighted_quantile(c, e.weight, t.equivalence_share) for c in counts)
    per_cluster = e.estimate.samples / clusters
    return math.ceil(wanted * per_cluster) if math.isfinite(wanted) else None


def _count(value: Float64, error: Float64, limit: float, half: float, clusters: int) -> Float64:
    margin = np.clip(limit - _certain(value, error, half), limit / 10, limit / 2)
    return clusters * (half * error / margin) ** 2


def _interval(value: Float64, error: Float64, weight: Float64, half: float) -> Interval | None:
    used = (weight > 0) & np.isfinite(value) & np.isfinite(error)
    if not used.any() or not math.isfinite(half):
        return None
    worst = int(np.argmax(np.where(used, np.abs(value), -1.0)))
    return float(value[worst] - half * error[worst]), float(value[worst] + half * error[worst])
