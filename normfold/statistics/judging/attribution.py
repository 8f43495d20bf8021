"""Root causes against collateral (§7).

A wrong BatchNormalization shifts every layer behind it. Pass E, with the stored statistics, shows which layers are shifted;
pass B, in which each layer sees what it would see if all layers before it were right, shows which of them are at fault.

Two forms of pass B: `batch` normalises with the statistics of each batch, as training did, in one pass; `sequential` estimates
the layers one level after the other, each behind repaired ones, which takes a pass per level and has no effect of the batch
size. The second is for data that is not shuffled, whose batches say little, and for models that take small batches only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from normfold.statistics.collect import Collected, DataSource
from normfold.statistics.data.views import View
from normfold.statistics.judging.ancestry import Ancestry
from normfold.statistics.judging.layers import Verdict
from normfold.statistics.moments import Moments
from normfold.statistics.probes.collector import collect
from normfold.statistics.probes.forms import BATCH, Form, Statistics
from normfold.statistics.probes.passes import Runtime
from normfold.statistics.subject import Subject

Method = Literal["batch", "sequential"]
# Batches below this size have statistics that are too noisy to stand for the population.
SMALLEST_BATCH = 8
# There is a pass for each level of the network: as many samples as the statistics of a channel need, and no more.
_SEQUENTIAL_SAMPLES = 1024


@dataclass(frozen=True, slots=True)
class Attribution:
    """Who is at fault.

    Args:
        roots: keys of the layers that are, in execution order.
        collateral: by key of a shifted layer, the root cause in front of it; None where there is none.
    """

    roots: tuple[str, ...]
    collateral: Mapping[str, str | None]


def attribute(stored: Mapping[str, Verdict], repaired: Mapping[str, Verdict], ancestry: Ancestry) -> Attribution:
    """The table of §7. Layers that pass E does not show as shifted are only at fault if pass B shows it as a failure.

    Args:
        stored, repaired: of pass E and pass B, by key, in execution order.
        ancestry: of these sites.
    """
    roots = [key for key, verdict in repaired.items() if verdict.shifted and _concerned(key, stored, verdict)]
    collateral = {
        key: ancestry.nearest(key, roots) for key, verdict in stored.items() if verdict.shifted and key not in roots
    }
    return Attribution(tuple(roots), collateral)


def _concerned(key: str, stored: Mapping[str, Verdict], repaired: Verdict) -> bool:
    """Two faults may hide each other in pass E; a mild shift of pass B alone may be the noise of small batches."""
    return key in stored and (stored[key].shifted or repaired.status == "fail")


def repaired_pass(
    subject: Subject, source: DataSource, ancestry: Ancestry, runtime: Runtime, method: Method
) -> Collected:
    """Pass B.

    Args:
        subject, source: the model and its data.
        ancestry: of the sites that are measured.
        runtime: to run in.
        method: see the module.
    """
    if method == "batch":
        return collect(subject, source, BATCH, runtime=runtime)
    source = View(source, limit=_SEQUENTIAL_SAMPLES)
    moments: dict[str, Moments] = {}
    given: dict[str, Statistics] = {}
    for level in ancestry.levels():
        found = collect(subject, source, Form(statistics=given), runtime=runtime, only=level, cut=True)
        moments |= found.moments
        for key, state in found.moments.items():
            estimate = state.estimate()
            given[key] = Statistics(estimate.mean, estimate.var)
    last = collect(subject, source, Form(statistics=given), runtime=runtime, only=())
    return Collected("batch", moments, last.samples, last.batches, last.sha256, last.outputs, last.skipped)
