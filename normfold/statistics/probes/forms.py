"""How the normalisations are written into the model that is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from normfold.statistics.exact_sums import Float64


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """A mean and a variance, `[C]` each, to be used instead of the stored ones."""

    mean: Float64
    var: Float64


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """One form of all normalisations.

    Args:
        batch: all with the statistics of the batch; else with the stored ones. Those in the body of a Loop or Scan keep the
            stored ones, because what one iteration sees is not a batch of what all of them see.
        statistics: by key of the site, used in the place of the stored ones.
        epsilon: used everywhere, None for what is stored.
    """

    batch: bool = False
    statistics: Mapping[str, Statistics] = field(default_factory=dict)
    epsilon: float | None = None


STORED, BATCH = Form(), Form(batch=True)
