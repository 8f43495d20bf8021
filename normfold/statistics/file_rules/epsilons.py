"""S06, N02, N03: epsilon of layers with and without stored statistics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from normfold.statistics.file_rules.values import readable
from normfold.statistics.findings import finding
from normfold.statistics.schema import Evidence, Finding
from normfold.statistics.sites import StatelessSite, StatSite, is_half
from normfold.statistics.subject import Subject
from normfold.statistics.thresholds import Thresholds

USUAL = (1e-3, 1e-5, 1.001e-5, 2e-5, 1e-4, 1e-6, 1e-12)
_SHOWN = 5


def epsilon_anomalies(subject: Subject, thresholds: Thresholds) -> Iterator[Finding]:
    """S06: 0, unusual, mixed, or larger than most variances."""
    for site in subject.sites:
        epsilon = site.epsilon
        if epsilon is None or site.uses_batch:
            continue
        if epsilon <= 0 or not np.isfinite(epsilon):
            yield finding("S06", f"epsilon is {epsilon:g}", site=site, evidence=_shown(epsilon))
        elif not any(np.isclose(epsilon, np.float32(usual), rtol=1e-6, atol=0) for usual in USUAL):
            message = f"epsilon is {epsilon:.4g}, which no framework uses"
            yield finding("S06", message, site=site, evidence=_shown(epsilon))
    yield from _mixed("S06", "BatchNormalization", [site for site in subject.sites if not site.uses_batch])
    yield from _dominated(subject, thresholds)


def _shown(epsilon: float) -> tuple[Evidence, ...]:
    return (Evidence(name="epsilon", value=epsilon if np.isfinite(epsilon) else None),)


def _dominated(subject: Subject, thresholds: Thresholds) -> Iterator[Finding]:
    for site, _, var in readable(subject):
        share = float((var < thresholds.epsilon_dominated * (site.epsilon or 0.0)).mean())
        if share >= thresholds.epsilon_dominated_share and not (var < 0).any():
            message = (
                f"in {share:.0%} of {var.size} channels the variance is below {thresholds.epsilon_dominated:g} epsilon, "
                f"so another epsilon would change the layer"
            )
            yield finding(
                "S06", message, site=site,
                evidence=(Evidence(name="share of channels", value=share, threshold=thresholds.epsilon_dominated_share),),
            )  # fmt: skip


def stateless_epsilons(subject: Subject, thresholds: Thresholds) -> Iterator[Finding]:
    """N02 and N03: norms of one kind with several epsilons, and epsilons that do not keep a constant row from NaN."""
    kinds = dict.fromkeys(site.op_type for site in subject.stateless)
    for kind in kinds:
        yield from _mixed("N02", kind, [site for site in subject.stateless if site.op_type == kind])
    for site in subject.stateless:
        if site.epsilon is None:
            continue
        if site.epsilon <= 0:
            yield finding("N03", f"epsilon is {site.epsilon:g}", site=site)
        elif is_half(site.dtype) and site.epsilon < thresholds.half_smallest:
            yield finding("N03", f"epsilon is {site.epsilon:.3g}, which is 0 in float16", site=site)


def _mixed(code: str, kind: str, sites: Sequence[StatSite | StatelessSite]) -> Iterator[Finding]:
    """One finding for the model: which epsilon most layers have, and which have another."""
    known = [(site, f"{site.epsilon:.4g}") for site in sites if site.epsilon is not None]
    counts = Counter(text for _, text in known)
    if len(counts) < 2:
        return
    usual = counts.most_common(1)[0][0]
    others = [(site.label, text) for site, text in known if text != usual]
    listed = ", ".join(f"{label} ({text})" for label, text in others[:_SHOWN])
    more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
    message = f"epsilon is {usual} in {counts[usual]} of {len(known)} {kind} layers, and another in {listed}{more}"
    yield finding(code, message, nodes=tuple(label for label, _ in others))
