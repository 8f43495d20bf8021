"""How far measured statistics are from stored ones, as one number per layer (§5)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from normfold.statistics.exact_sums import Float64
from normfold.statistics.moments import Estimate, Moments
from normfold.statistics.sites import StatSite


def layer_scores(sites: Mapping[str, StatSite], moments: Mapping[str, Moments]) -> dict[str, float]:
    """J of each layer: γ²-weighted median over channels of the symmetric divergence; infinite where statistics are broken."""
    return {key: layer_score(sites[key], found.estimate()) for key, found in moments.items()}


def layer_score(site: StatSite, estimate: Estimate) -> float:
    """J of one layer."""
    assert site.mean is not None and site.var is not None and site.epsilon is not None
    stored, measured = site.var + site.epsilon, estimate.var + site.epsilon
    with np.errstate(all="ignore"):
        spread = measured / stored + stored / measured - 2
        shift = (estimate.mean - site.mean) ** 2 * (1 / stored + 1 / measured)
        j = (spread + shift) / 2
    j = np.where(np.isfinite(j) & (stored > 0), j, np.inf)
    weights = np.ones_like(j) if site.gamma is None else site.gamma**2
    return weighted_median(j, weights)


def noise(site: StatSite, estimate: Estimate) -> float:
    """What J is expected to be from sampling alone: E[d²] + 2·E[ρ²]."""
    assert site.epsilon is not None
    measured = estimate.var + site.epsilon
    with np.errstate(all="ignore"):
        expected = estimate.se_mean**2 / measured + 2 * (estimate.se_var / (2 * measured)) ** 2
    expected = np.where(np.isfinite(expected), expected, 0.0)
    return weighted_median(expected, np.ones_like(expected) if site.gamma is None else site.gamma**2)


def weighted_median(values: Float64, weights: Float64) -> float:
    """The value at which half of the weight is reached; all weigh the same where all weights are 0."""
    if not weights.any() or not np.isfinite(weights).all():
        weights = np.ones_like(values)
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, reached[-1] / 2)])
