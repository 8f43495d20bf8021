"""Causes that explain many layers at once: a moving average that has not converged, another epsilon."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from normfold.statistics.data.views import View
from normfold.statistics.judging.case import SAMPLES, Case, Cause, median, stored_statistics
from normfold.statistics.judging.distributions import weighted_quantile
from normfold.statistics.judging.effects import effect
from normfold.statistics.probes.collector import collect
from normfold.statistics.probes.forms import Form
from normfold.statistics.sites import StatSite

_EPSILONS = (1e-3, 1e-5, 1e-4, 1e-6, 1e-12)


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


GLOBAL: tuple[Callable[[Case], Cause | None], ...] = (under_trained, other_epsilon)
