"""Everything that is known when a cause is looked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from normfold.statistics.collect import DataSource
from normfold.statistics.exact_sums import Float64
from normfold.statistics.judging.ancestry import Ancestry
from normfold.statistics.judging.attribution import Attribution
from normfold.statistics.judging.distributions import weighted_quantile
from normfold.statistics.judging.effects import compare
from normfold.statistics.judging.layers import Verdict
from normfold.statistics.moments import Estimate
from normfold.statistics.probes.passes import Runtime
from normfold.statistics.schema import Severity, Status
from normfold.statistics.sites import StatSite
from normfold.statistics.subject import Subject
from normfold.statistics.thresholds import Thresholds

# Hypotheses that need passes of their own are tried on so many samples.
SAMPLES = 256
# Up to this share of the layers, or this number, faults are isolated ones.
_ISOLATED_SHARE, _ISOLATED = 0.25, 2
# In networks with fewer layers two are many.
_FEW_LAYERS = 6


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A model whose statistics do not fit, examined.

    Args:
        subject, thresholds, runtime: as everywhere.
        source: the data, in the preparation that fits the first layers if one was found.
        sites: that were measured, by key, in execution order.
        stored, repaired: verdicts of pass E and pass B.
        attribution, ancestry: of them.
        shuffled: whether batches are as good as random.
        implied_r2: of the input that the first layer implies, None where it could not be solved.
    """

    subject: Subject
    thresholds: Thresholds
    runtime: Runtime
    source: DataSource
    sites: Mapping[str, StatSite]
    stored: Mapping[str, Verdict]
    repaired: Mapping[str, Verdict]
    attribution: Attribution
    ancestry: Ancestry
    shuffled: bool
    implied_r2: float | None

    def estimate(self, key: str) -> Estimate:
        """What pass B measured."""
        return self.repaired[key].effect.estimate

    def layer_j(self, key: str, mean: Float64, var: Float64, estimate: Estimate | None = None) -> float:
        """J of a layer if it had these statistics."""
        site = self.sites[key]
        assert site.epsilon is not None
        e = compare(site, mean, var, estimate or self.estimate(key), self.thresholds, site.epsilon)
        return weighted_quantile(e.j, e.weight)

    def severity(self, keys: Sequence[str]) -> Severity:
        """An error where a layer fails, else a warning."""
        failed = any(v.status is Status.FAIL for key in keys for v in (self.stored[key], self.repaired[key]))
        return Severity.ERROR if failed else Severity.WARNING


@dataclass(frozen=True, slots=True, eq=False)
class Cause:
    """A name for what is wrong.

    Args:
        code: of the catalogue.
        message: one sentence with numbers.
        keys: the layers that it explains; the first one is named in the finding.
        value, threshold, name: the number that it rests on.
        severity: None for what the layers say.
        fix: other than the usual, "" for that.
    """

    code: str
    message: str
    keys: tuple[str, ...]
    name: str
    value: float
    threshold: float | None = None
    severity: Severity | None = None
    fix: str = ""


def stored_statistics(site: StatSite) -> tuple[Float64, Float64]:
    """Mean and variance of a site that was measured, which has them."""
    assert site.mean is not None and site.var is not None
    return site.mean, site.var


def median(values: Sequence[float]) -> float:
    """Median of what is a number; infinite where nothing is."""
    finite = [v for v in values if not np.isnan(v)]
    return float(np.median(finite)) if finite else float("inf")


def is_isolated(roots: int, layers: int) -> bool:
    """Whether so few layers are at fault that each has a cause of its own."""
    return roots <= max(_ISOLATED if layers >= _FEW_LAYERS else 1, _ISOLATED_SHARE * layers)
