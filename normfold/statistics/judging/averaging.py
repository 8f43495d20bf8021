"""How the stored statistics were averaged: over how many batches, of what size (S11, S14).

A moving average that gives each new batch the weight p is, once it has settled, a weighted mean of batch means. With
independent batches of b samples,

    μ = m_b + noise,      Var(noise) = r · Var(batch mean),      r = Σ wᵢ² = p/(2 − p)                        (§6.2)

so 1/r is the number of batches that it is worth: 19 at p = 0.1, 1.2 at p = 0.9. The first layer shows only b/r, the number
of samples that the mean is worth: the last batch of 38 samples and an average over batches of 2 look the same there. Deeper
layers tell them apart. They were fed by layers that normalised with the statistics of b samples, which moves their mean m_b
and widens Var(batch mean) (of two rows that a normalisation of vectors sees, each becomes ±1); how far is measured, by
passes in which every layer normalises with batches of b samples. For each b, a layer has the log-likelihood

    ℓ_b(r) = mean over channels of −½·[ ln τ² + (μ − m̂_b)²/τ² ],     τ² = Var_b(batch mean)·(r + 1/number of batches measured)

and what is compared is max_r ℓ_b(r), by its median over the layers, so that a few layers with other faults do not decide.

What is left is r. The noise of a layer is shared by its channels, so r̂ may be far below r; the number at which p = 0.1 and
p = 0.9 are equally likely is r̂ = ln(r₁/r₂)/(1/r₂ − 1/r₁) ≈ 0.155 for normal noise of any dimension. Above it the statistics
are those of about one batch (S11), of whatever size; below it, and with small batches, those of small batches (S14).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from normfold.errors import InputError
from normfold.statistics.data.views import View
from normfold.statistics.exact_sums import Float64
from normfold.statistics.judging.case import Case, Cause, median, stored_statistics
from normfold.statistics.judging.distributions import weighted_quantile
from normfold.statistics.judging.effects import effect
from normfold.statistics.judging.layers import Verdict, verdicts
from normfold.statistics.moments import Estimate
from normfold.statistics.probes.collector import collect
from normfold.statistics.probes.forms import Form
from normfold.statistics.probes.reach import is_repeated
from normfold.statistics.schema import Severity
from normfold.statistics.sites import StatSite

_SMALL_BATCHES = (2, 4, 8)
# A pass with small batches takes as long as many samples do.
_SMALL_BATCH_SAMPLES = 256
# χ² with one degree of freedom has this median.
_CHI2_MEDIAN = 0.4549
# A moving average of p = 0.1 over batches of 8 is worth 152 samples; in small networks that learned their training data
# by heart the means on other data look like those of 70.
_FEW_SAMPLES = 50.0
# The number may differ by this factor between the first layers and the last.
_TREND = 3.0
# Shares r of the variance of one batch that are tried: averages over 250 batches, up to twice what one batch has.
_SHARES = np.geomspace(0.004, 2.0, 60)
# What a mean is worth at least, in samples: one that has nothing to do with the data is worth none.
_NOTHING = 1e-9
# Gain in log-likelihood per channel below which two sizes of batches explain a model alike.
_GAIN = 1.0


def _share(p: float) -> float:
    """r of a moving average that gives a new batch this weight."""
    return p / (2 - p)


def _indifferent(usual: float, swapped: float) -> float:
    """The measured r at which two moving averages are equally likely."""
    low, high = _share(usual), _share(swapped)
    return math.log(high / low) / (1 / low - 1 / high)


_ONE_BATCH = _indifferent(0.1, 0.9)


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """The stored means as averages over batches of one size.

    Args:
        batch: samples of a batch.
        judged: what a pass with such batches says of each layer, by key, in execution order.
        likelihood: ℓ_b of each layer at its best r; NaN where it cannot be told.
        share: that r.
        samples: what the mean of each layer is worth, b/r by the median channel; ∞ where that is noise.
    """

    batch: int
    judged: Mapping[str, Verdict]
    likelihood: Float64
    share: Float64
    samples: Float64

    @property
    def j(self) -> float:
        """Sum of J over the layers."""
        return sum(v.j if math.isfinite(v.j) else 1e6 for v in self.judged.values())

    @property
    def trend(self) -> float:
        """By what factor the samples differ between the front half of the layers and the other."""
        logs = np.log(np.maximum(self.samples[np.isfinite(self.samples)], _NOTHING))
        half = max(len(logs) // 2, 1)
        return math.exp(abs(float(np.median(logs[:half]) - np.median(logs[-half:])))) if len(logs) else math.inf

    def gain(self, other: Fit) -> float:
        """How much better it is than another, per channel, in the median layer."""
        return median(list(self.likelihood - other.likelihood))


def few_values(case: Case) -> Cause | None:
    """S14 or S11: the means scatter in every layer as those of few samples do, and by more than data explains."""
    keys = [
        key for key, verdict in case.repaired.items() if verdict.effect.measured and not is_repeated(case.sites[key])
    ]
    if not keys:
        return None
    given = _fit(case, case.source.batch_size, {key: case.repaired[key] for key in keys})
    usable = np.isfinite(given.samples)
    if usable.sum() < max(2.0, 0.8 * len(keys)) or np.median(given.samples[usable]) > _FEW_SAMPLES:
        return None
    small = _small_fits(case, keys)
    best = max((given, *small), key=lambda fit: fit.gain(given))
    if best is not given and best.gain(given) >= _GAIN and median(list(best.share)) < _ONE_BATCH:
        return _small_batch(case, given, best)
    return _last_batch(case, given, best, told_apart=bool(small))


def _small_batch(case: Case, given: Fit, best: Fit) -> Cause | None:
    average = 1 / median(list(best.share))
    clusters = min(case.estimate(key).clusters for key in given.judged)
    # Small batches have to explain the variances too, not the means alone; other data has other variances in the first layer.
    if best.j >= given.j or clusters < 3 * best.batch * average or not _first_may_be_few(case, given):
        return None
    return Cause(
        "S14", f"the statistics are averages over batches of about {best.batch} samples (over {average:.0f} of them or so): "
        f"with these the J of the layers adds up to {best.j:.2g}, with {given.batch} to {given.j:.2g}",
        case.attribution.roots or tuple(best.judged), "gain in log-likelihood per channel by small batches",
        best.gain(given), _GAIN, case.severity(tuple(best.judged)),
    )  # fmt: skip


def _first_may_be_few(case: Case, given: Fit) -> bool:
    """Whether the variance of the first layer is not further off than that of one sample would be."""
    key = next(iter(given.judged))
    return worth_of_variance(given.judged[key], case.sites[key]) >= 1


def _last_batch(case: Case, given: Fit, best: Fit, *, told_apart: bool) -> Cause | None:
    keys = tuple(given.judged)
    samples = float(np.median(given.samples[np.isfinite(given.samples)]))
    clusters = min(case.estimate(key).clusters for key in keys)
    if samples < 1.5 or clusters < 3 * samples or min(given.trend, best.trend) > _TREND:
        return None
    # What happens to the first layer cannot come from those in front; it is one draw of a few dimensions, so that its mean
    # alone may lie close by chance. Other data has another variance, which the last batch has only as far as few samples do.
    of_variance = worth_of_variance(given.judged[keys[0]], case.sites[keys[0]])
    if not min(given.samples[0], of_variance) <= 2 * _FEW_SAMPLES or of_variance < 1:
        return None
    # An average at p = 0.1 is worth 19 batches, and a batch has two samples at least.
    ambiguous = not told_apart and samples * _share(0.1) >= 1
    unsure = (
        "; an average over many batches of two or three samples would look the same on this data" if ambiguous else ""
    )
    return Cause(
        "S11", f"the means scatter like those of {samples:.0f} samples in every layer, as statistics of the last batch "
        f"would{unsure}",
        keys, "samples that the means are worth", samples, _FEW_SAMPLES,
        case.severity(keys) if case.attribution.roots else Severity.WARNING,
    )  # fmt: skip


def _small_fits(case: Case, keys: Sequence[str]) -> list[Fit]:
    """With smaller batches, where data and model can take such, and layers behind the first ones can show it."""
    first = case.ancestry.first()
    if not case.shuffled or case.source.grouped or all(key in first for key in keys):
        return []
    sizes = [size for size in _SMALL_BATCHES if size * 2 <= case.source.batch_size]
    try:
        return [_with_batches(case, keys, size) for size in sizes]
    except InputError:  # the model takes batches of one size only
        return []


def _with_batches(case: Case, keys: Sequence[str], size: int) -> Fit:
    view = View(case.source, limit=_SMALL_BATCH_SAMPLES, size=size)
    moments = collect(case.subject, view, Form(batch=True), runtime=case.runtime, cut=True).moments
    estimates = {key: seed_estimate(moments[key].estimate(), size) for key in keys if key in moments}
    effects = {key: effect(case.sites[key], e, case.thresholds) for key, e in estimates.items()}
    return _fit(case, size, verdicts(effects, case.thresholds))


def _fit(case: Case, batch: int, judged: Mapping[str, Verdict]) -> Fit:
    profiles = [_profile(v, stored_statistics(case.sites[key])[0], batch) for key, v in judged.items()]
    samples = [worth(v, stored_statistics(case.sites[key])[0]) for key, v in judged.items()]
    likelihood, share = np.array(profiles).reshape(-1, 2).T
    return Fit(batch, judged, likelihood, share, np.array(samples, np.float64))


def _profile(verdict: Verdict, mean: Float64, batch: int) -> tuple[float, float]:
    """max_r ℓ_b(r) of one layer, and that r; NaN without a channel that varies."""
    e = verdict.effect.estimate
    spread = _spread(verdict) / batch
    used = (verdict.effect.weight > 0) & (spread > 0) & np.isfinite(spread) & np.isfinite(e.mean)
    if not used.any():
        return math.nan, math.nan
    measured = batch / e.clusters
    tau2 = spread[used] * (_SHARES[:, None] + measured)
    profile = -0.5 * (np.log(tau2) + (mean - e.mean)[used] ** 2 / tau2).mean(axis=1)
    best = int(np.argmax(profile))
    return float(profile[best]), float(_SHARES[best])


def _spread(verdict: Verdict) -> Float64:
    """`[C]`: batch size times the variance of batch means: the variance of a sample mean, if samples were independent.

    Batches that were normalised in front vary less than independent samples would, or more: by R, which the batches show.
    """
    e = verdict.effect.estimate
    return e.se_mean**2 * e.clusters * np.where(np.isfinite(e.shuffling), e.shuffling, 1.0)


def seed_estimate(e: Estimate, batch: int) -> Estimate:
    """With the variance that training averages: m/(m−1)·E_B[σ²_B], m values in a batch (§4.3)."""
    m = e.count / e.samples * batch
    with np.errstate(all="ignore"):
        return replace(e, var=np.where(m > 1, e.batch_var * m / (m - 1), e.batch_var))


def worth(verdict: Verdict, mean: Float64) -> float:
    """How many samples a stored mean is worth, by how far it lies from the measured one; ∞ where that is noise.

    Batches that were normalised in front vary less than independent samples would: by R, which the batches show.
    """
    e = verdict.effect.estimate
    factor = weighted_quantile(e.shuffling, verdict.effect.weight)
    return _worth(verdict, mean - e.mean, e.se_mean**2 * (min(factor, 1.0) if math.isfinite(factor) else 1.0))


def worth_of_variance(verdict: Verdict, site: StatSite) -> float:
    """The same for a stored variance, of a layer that has none in front."""
    e = verdict.effect.estimate
    return _worth(verdict, stored_statistics(site)[1] - e.var_unbiased, e.se_var**2)


def _worth(verdict: Verdict, off: Float64, squared: Float64) -> float:
    """Clusters that a number is worth that is `off` from a measured one, `squared` the square of whose standard error is."""
    with np.errstate(all="ignore"):
        share = (off**2 - squared * _CHI2_MEDIAN) / (squared * verdict.effect.estimate.clusters)
    ratio = weighted_quantile(share, verdict.effect.weight)
    return _CHI2_MEDIAN / ratio if ratio > 0 else math.inf


def looks_like_few_samples(judged: Mapping[str, Verdict], sites: Mapping[str, StatSite]) -> bool:
    """Whether the first layer scatters so much that it is worth a closer look (S11), although no layer is shifted."""
    key = next(iter(judged), None)
    if key is None or not judged[key].effect.measured:
        return False
    found = worth(judged[key], stored_statistics(sites[key])[0])
    return found <= _FEW_SAMPLES and judged[key].effect.estimate.clusters >= 3 * found
