"""Causes that explain many layers at once: a moving average, an epsilon, a batch size, one batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from normfold.statistics.data.views import View
from normfold.statistics.exact_sums import Float64
from normfold.statistics.judging.case import SAMPLES, Case, Cause, is_isolated, median, stored_statistics
from normfold.statistics.judging.distributions import weighted_quantile
from normfold.statistics.judging.effects import effect
from normfold.statistics.judging.layers import Verdict, verdicts
from normfold.statistics.moments import Estimate
from normfold.statistics.probes.collector import collect
from normfold.statistics.probes.instrument import Form
from normfold.statistics.schema import Severity
from normfold.statistics.sites import StatSite

_EPSILONS = (1e-3, 1e-5, 1e-4, 1e-6, 1e-12)
_SMALL_BATCHES = (2, 4)
# χ² with one degree of freedom has this median.
_CHI2_MEDIAN = 0.4549
# A moving average of p = 0.1 over batches of 8 is worth 152 samples; in small networks that learned their training data
# by heart the means on other data look like those of 70.
_FEW_SAMPLES = 50.0
# The number may differ by this factor between the first layers and the last.
_TREND = 3.0
# A pass with small batches takes as long as many samples do.
_SMALL_BATCH_SAMPLES = 256
# What is asked of small batches that explain a mismatch: J, and the scatter of the means, against now.
_HALF, _FAR_LESS = 2.0, 5.0


def under_trained(case: Case) -> Cause | None:
    """S10: μ = a·m̂ and v − 1 = a·(v̂ − 1) with one a for all layers: what a moving average is that began at 0 and 1."""
    keys = [key for key, verdict in case.repaired.items() if verdict.effect.measured]
    if not keys:
        return None

    def score(a: float) -> float:
        found = []
        for key in keys:
            mean, var = stored_statistics(case.sites[key])
            found.append(case.layer_j(key, mean / a, np.maximum((var - 1 + a) / a, 0.0)))
        return median(found)

    rough = min(np.arange(0.02, 1.0, 0.02), key=score)
    factor = float(min(np.arange(rough - 0.02, rough + 0.021, 0.002), key=lambda a: score(a) if a > 0.01 else math.inf))
    now, then = score(1.0), score(factor)
    t = case.thresholds
    if factor >= 0.95 or then >= t.j_warn or now < t.hypothesis_ratio * then or now < t.j_warn / 10:
        return None
    possible = all((stored_statistics(case.sites[key])[1] >= 1 - factor).all() for key in keys)
    repair = (
        "μ/a and (v − 1 + a)/a would remove the bias, but estimating them on data is safer (normfold recalibrate)"
        if possible
        else ""
    )
    return Cause(
        "S10",
        f"the moving averages hold {factor:.0%} of the data and {1 - factor:.0%} of what they began with, in all layers alike",
        tuple(keys), "share a of the data in the moving averages", factor, 0.95, None, repair,
    )  # fmt: skip


def other_epsilon(case: Case) -> Cause | None:
    """S06: with another epsilon in every layer, the stored statistics fit."""
    shifted = [key for key, verdict in case.stored.items() if verdict.shifted]
    if not shifted:
        return None
    now = _total(case, None)
    best = min(((_total(case, e), e) for e in _epsilons(case)), default=None)
    t = case.thresholds
    if best is None or best[0] > now / t.hypothesis_ratio or best[0] / len(case.sites) >= t.j_warn:
        return None
    old = sorted({site.epsilon for site in case.sites.values() if site.epsilon is not None})
    stored = ", ".join(f"{e:g}" for e in old)
    return Cause(
        "S06", f"epsilon is {stored}; with {best[1]:g} the statistics fit the data (J drops from {now:.3g} to {best[0]:.3g})",
        tuple(shifted), "sum of J over the layers, with the other epsilon", best[0], now / t.hypothesis_ratio, None,
        f"export again with epsilon {best[1]:g}, the one of training",
    )  # fmt: skip


def _epsilons(case: Case) -> list[float]:
    """Those that would change the scale of some layer by more than the limit of PASS."""

    def changes(site: StatSite, e: float) -> bool:
        assert site.var is not None and site.epsilon is not None
        with np.errstate(all="ignore"):
            ratio = np.abs(np.log((site.var + e) / (site.var + site.epsilon))) / 2
        weight = case.stored[site.key].effect.weight
        return weighted_quantile(ratio, weight, 0.75) > case.thresholds.equivalence_log_std

    return [e for e in _EPSILONS if any(changes(site, float(np.float32(e))) for site in case.sites.values())]


def _total(case: Case, epsilon: float | None) -> float:
    """Sum of J over the layers in pass E, on some of the data."""
    found = collect(
        case.subject, View(case.source, limit=SAMPLES), Form(epsilon=epsilon), runtime=case.runtime, cut=True
    )
    effects = (
        effect(case.sites[key], m.estimate(), case.thresholds, epsilon)
        for key, m in found.moments.items()
        if key in case.sites
    )
    return sum(_finite(weighted_quantile(e.j, e.weight)) for e in effects)


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 1e6


def small_batch(case: Case) -> Cause | None:
    """S14: pass B with small batches fits what pass B with these batches does not.

    Statistics of few samples scatter, so J does not get near 0; but behind the first layers they scatter no more than there.
    """
    first = case.ancestry.first()
    behind = [key for key in case.repaired if key not in first]
    if not case.shuffled or not behind or is_isolated(len(case.attribution.roots), len(case.sites)):
        return None
    sizes = [size for size in _SMALL_BATCHES if size * 2 <= case.source.batch_size]
    tried = {size: _with_batches(case, behind, size) for size in sizes}
    if not tried:
        return None
    now_j, now_worth = _fit(case, {key: case.repaired[key] for key in behind})
    best = min(tried, key=lambda size: tried[size][0])
    j, scatter = tried[best]
    if j > now_j / _HALF or scatter < _FAR_LESS * now_worth:
        return None
    return Cause(
        "S14", f"the statistics are those of batches of about {best} samples: with these the J of the layers adds up to "
        f"{j:.2g}, with {case.source.batch_size} to {now_j:.2g}",
        case.attribution.roots, "sum of J with small batches", j, now_j / _HALF,
    )  # fmt: skip


def _with_batches(case: Case, keys: Sequence[str], size: int) -> tuple[float, float]:
    """Sum of J, and samples that the means are worth, of these layers when pass B has batches of this size."""
    view = View(case.source, limit=_SMALL_BATCH_SAMPLES, size=size)
    moments = collect(case.subject, view, Form(batch=True), runtime=case.runtime, cut=True).moments
    estimates = {key: seed_estimate(moments[key].estimate(), size) for key in keys if key in moments}
    effects = {key: effect(case.sites[key], e, case.thresholds) for key, e in estimates.items()}
    return _fit(case, verdicts(effects, case.thresholds))


def _fit(case: Case, judged: Mapping[str, Verdict]) -> tuple[float, float]:
    scatter = [worth(v, stored_statistics(case.sites[key])[0]) for key, v in judged.items()]
    return sum(_finite(v.j) for v in judged.values()), median(scatter)


def seed_estimate(e: Estimate, batch: int) -> Estimate:
    """With the variance that training averages: m/(m−1)·E_B[σ²_B], m values in a batch (§4.3)."""
    m = e.count / e.samples * batch
    with np.errstate(all="ignore"):
        return replace(e, var=np.where(m > 1, e.batch_var * m / (m - 1), e.batch_var))


def last_batch(case: Case) -> Cause | None:
    """S11: the means scatter in every layer as those of few samples do, with no trend over depth."""
    keys = [key for key, verdict in case.repaired.items() if verdict.effect.measured]
    found = np.array([worth(case.repaired[k], stored_statistics(case.sites[k])[0]) for k in keys])
    usable = found[np.isfinite(found)]
    if len(usable) < max(2.0, 0.8 * len(keys)):
        return None
    logs = np.log(usable)
    samples = float(np.exp(np.median(logs)))
    clusters = min(case.estimate(key).clusters for key in keys)
    half = max(len(logs) // 2, 1)
    trend = abs(float(np.median(logs[:half]) - np.median(logs[-half:])))
    if not 1.5 <= samples <= _FEW_SAMPLES or clusters < 3 * samples or trend > math.log(_TREND):
        return None
    # What happens to the first layer cannot come from those in front; and other data has another variance, which the last
    # batch has only as far as few samples have.
    if logs[0] > math.log(2 * _FEW_SAMPLES) or worth_of_variance(case.repaired[keys[0]], case.sites[keys[0]]) < 1:
        return None
    return Cause(
        "S11", f"the means scatter like those of {samples:.0f} samples in every layer, as statistics of the last batch would",
        tuple(keys), "samples that the means are worth", samples, _FEW_SAMPLES,
        case.severity(keys) if case.attribution.roots else Severity.WARNING,
    )  # fmt: skip


def worth(verdict: Verdict, mean: Float64) -> float:
    """How many samples a stored mean is worth, by how far it lies from the measured one; ∞ where that is noise.

    Batches that were normalised in front vary less than independent samples would: by R, which the batches show.
    """
    e = verdict.effect.estimate
    factor = weighted_quantile(e.shuffling, verdict.effect.weight)
    squared = e.se_mean**2 * (min(factor, 1.0) if math.isfinite(factor) else 1.0)
    with np.errstate(all="ignore"):
        share = ((mean - e.mean) ** 2 - squared * _CHI2_MEDIAN) / (squared * e.clusters)
    ratio = weighted_quantile(share, verdict.effect.weight)
    return _CHI2_MEDIAN / ratio if ratio > 0 else math.inf


def worth_of_variance(verdict: Verdict, site: StatSite) -> float:
    """The same for a stored variance, of a layer that has none in front."""
    e = verdict.effect.estimate
    squared = e.se_var**2
    with np.errstate(all="ignore"):
        share = ((stored_statistics(site)[1] - e.var_unbiased) ** 2 - squared * _CHI2_MEDIAN) / (squared * e.clusters)
    ratio = weighted_quantile(share, verdict.effect.weight)
    return _CHI2_MEDIAN / ratio if ratio > 0 else math.inf


GLOBAL: tuple[Callable[[Case], Cause | None], ...] = (under_trained, other_epsilon, small_batch)


def looks_like_few_samples(judged: Mapping[str, Verdict], sites: Mapping[str, StatSite]) -> bool:
    """Whether the first layer scatters so much that it is worth a closer look (S11), although no layer is shifted."""
    key = next(iter(judged), None)
    if key is None or not judged[key].effect.measured:
        return False
    found = worth(judged[key], stored_statistics(sites[key])[0])
    return found <= _FEW_SAMPLES and judged[key].effect.estimate.clusters >= 3 * found
