"""Stored against measured, per channel: sizes of effects (§5) with their standard errors (§6.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from normfold.statistics.exact_sums import Float64
from normfold.statistics.judging.distributions import benjamini_hochberg, two_sided_p
from normfold.statistics.moments import Estimate
from normfold.statistics.sites import StatSite
from normfold.statistics.thresholds import Thresholds


@dataclass(frozen=True, slots=True, eq=False)
class Effect:
    """One layer; arrays are `[C]`.

    Args:
        site, estimate: what is stored, what was measured.
        weight: γ², 0 where the channel does not matter.
        shift: (m̂ − μ)/√V, signed; log_std: ρ = ½ ln(V̂/V); j: symmetric divergence.
        shift_se, log_std_se: standard errors.
        shift_p, log_std_p: two-sided, against no effect.
    """

    site: StatSite
    estimate: Estimate
    weight: Float64
    shift: Float64
    log_std: Float64
    j: Float64
    shift_se: Float64
    log_std_se: Float64
    shift_p: Float64
    log_std_p: Float64

    @property
    def measured(self) -> bool:
        """Whether there is any channel with a finite measurement."""
        return bool(np.isfinite(self.j).any())


def effect(site: StatSite, estimate: Estimate, thresholds: Thresholds, epsilon: float | None = None) -> Effect:
    """Hold the statistics of a site against a measurement.

    Args:
        site: with readable statistics and epsilon.
        estimate: of its input.
        thresholds: `dead_gamma` says which channels do not matter.
        epsilon: other than the stored one.
    """
    assert site.mean is not None and site.var is not None and site.epsilon is not None
    return compare(site, site.mean, site.var, estimate, thresholds, site.epsilon if epsilon is None else epsilon)


def compare(
    site: StatSite, mean: Float64, var: Float64, estimate: Estimate, thresholds: Thresholds, epsilon: float
) -> Effect:
    """`effect` with other statistics than the stored ones."""
    stored, found = var + epsilon, estimate.var + epsilon
    degrees = estimate.clusters - 1
    with np.errstate(all="ignore"):
        sigma = np.sqrt(stored)
        shift, shift_se = (estimate.mean - mean) / sigma, estimate.se_mean / sigma
        log_std, log_std_se = 0.5 * np.log(found / stored), estimate.se_var / (2 * found)
        j = 0.5 * (found / stored + stored / found - 2) + 0.5 * (estimate.mean - mean) ** 2 * (1 / stored + 1 / found)
        shift_p = two_sided_p(_ratio(shift, shift_se), degrees)
        log_std_p = two_sided_p(_ratio(log_std, log_std_se), degrees)
    return Effect(
        site, estimate, relevance(site, thresholds), shift, log_std, j, shift_se, log_std_se, shift_p, log_std_p
    )


def relevance(site: StatSite, thresholds: Thresholds) -> Float64:
    """γ² per channel, 0 for those that hardly reach the output; 1 where γ is not known or 0 everywhere."""
    count = site.mean.size if site.mean is not None else site.channels or 0
    gamma = np.ones(count) if site.gamma is None or site.gamma.size != count else np.abs(site.gamma)
    gamma = np.where(np.isfinite(gamma), gamma, 0.0)
    gamma = np.where(gamma > thresholds.dead_gamma * np.median(gamma), gamma, 0.0)
    return gamma**2 if gamma.any() else np.ones(count)


def _ratio(value: Float64, error: Float64) -> Float64:
    """value/error; what is the same in every sample has no error, and then rounding is no effect."""
    negligible = np.abs(value) < 1e-5
    return np.where((error == 0) & negligible, 0.0, value / error)


@dataclass(frozen=True, slots=True, eq=False)
class Significance:
    """Which effects of a layer stand out among all tests of the model, `[C]` each."""

    shift: NDArray[np.bool_]
    log_std: NDArray[np.bool_]

    @property
    def any(self) -> NDArray[np.bool_]:
        """Either."""
        return self.shift | self.log_std


def significance(effects: Mapping[str, Effect], rate: float) -> dict[str, Significance]:
    """Benjamini-Hochberg over all (layer, channel, {mean, variance}) tests; channels without weight are not tested."""
    keys = list(effects)
    if not keys:
        return {}
    parts = [(effects[k].shift_p, effects[k].log_std_p, effects[k].weight > 0) for k in keys]
    tested = np.concatenate([np.concatenate((used, used)) for _, _, used in parts])
    p = np.concatenate([np.concatenate((a, b)) for a, b, _ in parts])
    found = np.zeros(p.shape, np.bool_)
    found[tested] = benjamini_hochberg(p[tested], rate)
    result, at = {}, 0
    for key, (a, _, _) in zip(keys, parts, strict=True):
        c = a.size
        result[key] = Significance(found[at : at + c], found[at + c : at + 2 * c])
        at += 2 * c
    return result
