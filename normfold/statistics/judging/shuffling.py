"""Are batches as good as random (D03), and large enough to stand for the population (§4.3)?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from normfold.statistics.collect import Collected
from normfold.statistics.sites import StatSite
from normfold.statistics.thresholds import Thresholds

# With fewer full batches the ratio says nothing.
_BATCHES = 4
# Of the layers, so many have to show it: deep layers tell classes apart better than the first ones.
_QUANTILE = 0.75


@dataclass(frozen=True, slots=True)
class Shuffling:
    """R = B·Var(batch means)/Var(sample means), about 1 for shuffled data, and what it is held against.

    Args:
        ratio: over channels the median, over layers the upper quartile; None where it cannot be told.
        limit: max(2, 1 + 3·√(2/(b−1))) for b batches.
        between: ψ, median over channels and layers: the share of the variance that lies between batches.
        reason: why there is no ratio.
    """

    ratio: float | None
    limit: float | None
    between: float | None
    reason: str = ""

    @property
    def fine(self) -> bool:
        """Whether nothing speaks against it."""
        return self.ratio is None or self.limit is None or self.ratio <= self.limit


def shuffling(collected: Collected, sites: Mapping[str, StatSite], thresholds: Thresholds) -> Shuffling:
    """The figures of one pass with stored statistics."""
    ratios, shares = [], []
    batches = 0
    for key in sites:
        estimate = collected.moments[key].estimate()
        batches = max(batches, estimate.batches)
        ratio = estimate.shuffling[np.isfinite(estimate.shuffling)]
        share = estimate.psi[np.isfinite(estimate.psi)]
        if ratio.size:
            ratios.append(float(np.median(ratio)))
        if share.size:
            shares.append(float(np.median(share)))
    between = float(np.median(shares)) if shares else None
    if any(moments.groups is not None for moments in collected.moments.values()):
        return Shuffling(None, None, between, "with a group key, samples of a group are not taken for independent")
    if batches < _BATCHES:
        return Shuffling(None, None, between, f"{batches} full batches are too few to tell; {_BATCHES} would do")
    if not ratios:
        return Shuffling(None, None, between, "no layer was measured")
    limit = max(thresholds.shuffling, 1 + thresholds.shuffling_sigmas * math.sqrt(2 / (batches - 1)))
    return Shuffling(float(np.quantile(ratios, _QUANTILE)), limit, between)
