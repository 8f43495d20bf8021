"""Statistics of the whole data, layer by layer: each is measured with everything in front of it already repaired.

Layers that do not stand behind each other are measured in one pass, so there are as many passes as the longest path has
normalisations. What is stored is the moment of all values, not the average over batches: on shuffled data of correlated
values the latter would lack what samples differ by (§4.3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from normfold.errors import InputError
from normfold.statistics.collect import DataSource
from normfold.statistics.exact_sums import Float64
from normfold.statistics.judging.ancestry import Ancestry
from normfold.statistics.moments import Estimate
from normfold.statistics.probes.collector import collect
from normfold.statistics.probes.forms import Form, Statistics
from normfold.statistics.probes.passes import Runtime
from normfold.statistics.sites import StatSite
from normfold.statistics.subject import Subject
from normfold.statistics.thresholds import Thresholds

Variance = Literal["population", "unbiased"]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class Estimated:
    """What a repair would store.

    Args:
        statistics: by key of the site.
        estimates: what was measured.
        skipped: sites that keep what they have, by key, with the reason.
        passes: over the data.
        samples: that every pass saw.
        sha256: of what was fed.
    """

    statistics: Mapping[str, Statistics]
    estimates: Mapping[str, Estimate]
    skipped: Mapping[str, str]
    passes: int
    samples: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Estimator:
    """Settings of an estimate.

    Args:
        runtime: child process.
        thresholds: limits under which data is refused.
        variance: of the values as they are, or n/(n−1) times it, which is what PyTorch stores.
        prior: weight of the stored statistics, in samples; 0 replaces them.
        chosen: keys of the sites to repair, None for all that can be measured.
        fixed: by key of the site, `[C]`, channels that keep what they have.
        progress: called with a stage, how much is done, and how much there is.
    """

    runtime: Runtime
    thresholds: Thresholds
    variance: Variance = "population"
    prior: float = 0.0
    chosen: Collection[str] | None = None
    fixed: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    progress: Progress = lambda *_: None

    def run(self, subject: Subject, source: DataSource) -> Estimated:
        """Measure every site.

        Raises:
            InputError: the data is too small or not shuffled, holds no finite value, or does not fit.
        """
        sites = {site.key: site for site in subject.sites if self.chosen is None or site.key in self.chosen}
        statistics: dict[str, Statistics] = {}
        estimates: dict[str, Estimate] = {}
        skipped: dict[str, str] = {}
        levels = Ancestry(subject, list(sites.values())).levels()
        samples, sha256 = 0, ""
        for done, level in enumerate(levels):
            self.progress("estimating", done, len(levels))
            found = collect(subject, source, Form(statistics=statistics), runtime=self.runtime, only=level)
            samples, sha256 = found.samples, found.sha256
            skipped |= {key: reason for key, reason in found.skipped.items() if key in level}
            for key, moments in found.moments.items():
                estimates[key] = moments.estimate()
                self._require_enough(sites[key], estimates[key])
                statistics[key] = self._new(sites[key], estimates[key])
            if not done:
                self._require_shuffled(list(estimates.values()), source)
        return Estimated(statistics, estimates, skipped, len(levels), samples, sha256)

    # --- one layer ---

    def _new(self, site: StatSite, found: Estimate) -> Statistics:
        """What is to be stored."""
        assert site.mean is not None and site.var is not None
        mean, var = found.mean, found.var if self.variance == "population" else found.var_unbiased
        if self.prior:
            mean, var = blended(site, mean, var, found.samples, self.prior)
        # A channel that is constant on this data has no variance to learn: with 0 it would explode if it ever moved.
        usable = np.isfinite(site.var) & (site.var > 0)
        fixed = self.fixed.get(site.key, np.zeros(mean.shape, np.bool_))
        return Statistics(
            np.where(fixed, site.mean, mean), np.where(fixed | ((found.var == 0) & usable), site.var, var)
        )

    # --- what no repair should rest on ---

    def _require_enough(self, site: StatSite, found: Estimate) -> None:
        silent = found.count == 0
        if silent.any():
            raise InputError(
                "data.not_finite",
                f"{int(silent.sum())} channels hold no finite value on this data",
                where=site.label,
                hint="look for what makes infinities in front of it",
            )
        if found.alike and (found.var > 0).any():
            raise InputError(
                "data.too_few",
                f"all {found.clusters} samples look the same: they are worth one",
                where=site.label,
                hint="give samples that differ as those do that the model is run on",
            )
        alive = found.n_eff[(found.var > 0) & np.isfinite(found.n_eff)]
        limit = self.thresholds.independent_samples
        if alive.size and alive.min() < limit:
            raise InputError(
                "data.too_few",
                f"this data is worth {alive.min():.0f} independent values in a channel, wanted {limit:g}",
                where=site.label,
                hint=f"give about {limit / max(alive.min(), 1e-9):.1f} times as many samples",
            )

    def _require_shuffled(self, found: Collection[Estimate], source: DataSource) -> None:
        for estimate in found:
            ratio = float(np.nanmedian(estimate.shuffling)) if np.isfinite(estimate.shuffling).any() else 0.0
            limit = shuffling_limit(self.thresholds, estimate.batches)
            if ratio > limit:
                raise InputError(
                    "data.not_shuffled",
                    f"batches differ {ratio:.1f} times more than shuffled ones would (limit {limit:.1f})",
                    where=source.description,
                    hint="shuffle it with --seed, or name what belongs together with --group-key",
                )


def blended(site: StatSite, mean: Float64, var: Float64, samples: int, prior: float) -> tuple[Float64, Float64]:
    """Stored and measured statistics as those of one population, the stored ones worth `prior` samples (§11)."""
    assert site.mean is not None and site.var is not None
    if not (np.isfinite(site.mean).all() and np.isfinite(site.var).all() and (site.var >= 0).all()):
        return mean, var  # nothing that a population could have
    share = prior / (prior + samples)
    between = share * (1 - share) * (site.mean - mean) ** 2
    return share * site.mean + (1 - share) * mean, share * site.var + (1 - share) * var + between


def shuffling_limit(thresholds: Thresholds, batches: int) -> float:
    """What R of D03 is held against."""
    if batches < 2:
        return float("inf")
    return max(thresholds.shuffling, 1 + thresholds.shuffling_sigmas * math.sqrt(2 / (batches - 1)))
