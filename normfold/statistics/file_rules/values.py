"""S01 to S05 and S07: what the stored numbers of one layer say by themselves."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normfold.model.tensors import Float64
from normfold.statistics.file_rules.weights import largest_weight
from normfold.statistics.findings import finding
from normfold.statistics.schema import Evidence, Finding, Severity
from normfold.statistics.sites import StatSite, is_half
from normfold.statistics.subject import Subject
from normfold.statistics.thresholds import Thresholds
from normfold.statistics.vectors import number

_HALF_NORMAL = 2.0**-14  # smallest normal number of float16


def readable(subject: Subject) -> Iterator[tuple[StatSite, Float64, Float64]]:
    """The sites that use stored statistics, with mean and variance, `[C]`."""
    for site in subject.sites:
        if (
            not site.uses_batch
            and site.mean is not None
            and site.var is not None
            and site.has_statistics
            and site.mean.size
        ):
            yield site, site.mean, site.var


def is_default(mean: Float64, var: Float64) -> bool:
    """Whether statistics are what a framework starts with."""
    return bool((mean == 0).all() and (var == 1).all())


def never_updated(subject: Subject, thresholds: Thresholds) -> Iterator[Finding]:
    """S01: mean 0 and variance 1 everywhere; a warning where gamma and beta are defaults as well."""
    for site, mean, var in readable(subject):
        if not is_default(mean, var):
            continue
        trained = (site.gamma is not None and (site.gamma != 1).any()) or (
            site.beta is not None and (site.beta != 0).any()
        )
        if trained:
            message = f"mean 0 and variance 1 in all {mean.size} channels, while gamma and beta were trained"
            yield finding("S01", message, site=site, channels=mean.size)
        else:
            message = f"mean 0, variance 1, gamma 1 and beta 0 in all {mean.size} channels: the layer does nothing"
            yield finding("S01", message, site=site, channels=mean.size, severity=Severity.WARNING)


def partly_updated(subject: Subject, thresholds: Thresholds) -> Iterator[Finding]:
    """S07: one of the two is what a framework starts with. A scale written as a layer (mean 0, one variance) is not meant."""
    for site, mean, var in readable(subject):
        zero, one = bool((mean == 0).all()), bool((var == 1).all())
        if zero == one or (zero and (var == var[0]).all()):
            continue
        what = (
            "the mean is 0 in all channels and the variance is not 1"
            if zero
            else "the variance is 1 in all channels and the mean is not 0"
        )
        yield finding("S07", what, site=site, channels=mean.size)


def not_finite(subject: Subject, thresholds: Thresholds) -> Iterator[Finding]:
    """S02: NaN or infinity in any of the four parameters."""
    for site in subject.sites:
        if site.uses_batch:
            continue
        bad = {
            name: int((~np.isfinite(values)).sum())
            for name in ("mean", "var", "gamma", "beta")
            if (values := getattr(site, name)) is not None and not np.isfinite(values).all()
        }
        if bad:
            listed = ", ".join(f"{name} in {count} channels" for name, count in bad.items())
            yield finding("S02", f"NaN or infinity: {listed}", site=site, channels=max(bad.values()))


def negative_variance(subject: Subject, thresholds: Thresholds) -> Iterator[Finding]:
    """S03: below −ε the result is NaN, between −ε and 0 the scale explodes."""
    for site, _, var in readable(subject):
        negative = var < 0
        if not negative.any():
            continue
        lowest, epsilon = float(np.nanmin(var)), site.epsilon or 0.0
        effect = "which gives NaN" if lowest < -epsilon else "which makes the scale explode"
        yield finding(
            "S03", f"{int(negative.sum())} of {var.size} channels, the lowest is {lowest:.3g}, {effect}", site=site,
            channels=int(negative.sum()), evidence=(Evidence(name="lowest variance", value=number(lowest), threshold=0.0),),
        )  # fmt: skip


def gains(site: StatSite, var: Float64) -> Float64:
    """|γ|/√(v+ε), `[C]`; infinite where the root is 0 and γ is not, NaN where it is negative."""
    gamma = np.ones_like(var) if site.gamma is None or site.gamma.shape != var.shape else np.abs(site.gamma)
    with np.errstate(divide="ignore", invalid="ignore"):
        return gamma / np.sqrt(var + (site.epsilon or 0.0))


def dead_channels(subject: Subject, thresholds: Thresholds) -> Iterator[Finding]:
    """S04: channels without variance, or with a scale that explodes; info where gamma says that they do not matter."""
    for site, _, var in readable(subject):
        gain = gains(site, var)
        with np.errstate(invalid="ignore"):
            exploding = (gain > thresholds.gain) & (var >= 0)
            dead = (var < thresholds.dead_epsilon * (site.epsilon or 0.0)) & (var >= 0)
        either = exploding | dead
        if not either.any():
            continue
        matters = either & ~_without_weight(site, thresholds, var.size)
        counted = matters if matters.any() else either
        parts = [
            f"{int((mask & counted).sum())} with {what}"
            for mask, what in ((dead, "almost no variance"), (exploding, f"a scale above {thresholds.gain:g}"))
            if (mask & counted).any()
        ]
        tail = "" if matters.any() else "; gamma is about 0 there, so they do not matter"
        peak = float(np.nanmax(np.where(counted, gain, 0.0)))
        yield finding(
            "S04", f"of {var.size} channels {' and '.join(parts)} (largest scale {peak:.3g}){tail}", site=site,
            severity=Severity.WARNING if matters.any() else Severity.INFO, channels=int(counted.sum()),
            evidence=(
                Evidence(name="largest scale", value=number(peak), threshold=thresholds.gain),
                Evidence(name="share of channels", value=float(counted.mean())),
            ),
        )  # fmt: skip


def _without_weight(site: StatSite, thresholds: Thresholds, size: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """`[C]`: channels whose gamma is about 0."""
    if site.gamma is None or site.gamma.size != size:
        return np.zeros(size, bool)
    size_of = np.abs(site.gamma)
    return np.asarray(size_of <= thresholds.dead_gamma * np.median(size_of))


def half_range(subject: Subject, thresholds: Thresholds) -> Iterator[Finding]:
    """S05: what float16 cannot hold; a warning in a model of float16, info in one that may be converted."""
    for site, _, var in readable(subject):
        problems = list(_half_problems(subject, site, var, thresholds))
        if problems:
            severity = Severity.WARNING if is_half(site.dtype) else Severity.INFO
            channels = max(count for count, _ in problems)
            message = "; ".join(f"{text} in {count} of {var.size} channels" for count, text in problems)
            yield finding("S05", message, site=site, severity=severity, channels=channels)


def _half_problems(subject: Subject, site: StatSite, var: Float64, thresholds: Thresholds) -> Iterator[tuple[int, str]]:
    large = int((var > thresholds.half_largest).sum())
    if large:
        yield large, f"variance up to {float(np.nanmax(var)):.3g}"
    tiny = int(((var < thresholds.half_smallest) & (var >= 0)).sum())
    if tiny and not site.epsilon:
        yield tiny, "variance that becomes 0, with epsilon 0"
    weight = largest_weight(subject, site)
    if weight is None or weight.shape != var.shape:
        return
    folded = weight * gains(site, var)
    with np.errstate(invalid="ignore"):
        out, subnormal = (
            int((folded > thresholds.half_largest).sum()),
            int(((folded > 0) & (folded < _HALF_NORMAL)).sum()),
        )
    if out:
        yield out, f"folded weight up to {float(np.nanmax(folded)):.3g}"
    if subnormal:
        yield subnormal, "folded weights that are all subnormal"
