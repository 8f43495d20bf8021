"""What data looks like to `check`, and what a run over it leaves behind. Signatures only.

`DataSource`s are made from files by `normfold.statistics.data`, or by users of the Python API; the collector runs them
through a model with probes and leaves a `Collected`, which the judgement, `recalibrate` and `stats merge` read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from normfold.statistics.moments import Moments

Array = NDArray[Any]
# Why a site was skipped that stands in a body which no batch led into; other data may.
NOT_REACHED = "not reached: the body that it stands in was not run on this data"


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Samples that go through the model together.

    Args:
        index: position in the whole data, from 0, whatever the shard: batches are cut before they are dealt out.
        feeds: `[N, ...]` by graph input.
        samples: N.
        groups: `[N]`, what belongs together (video, patient); None without a group key.
        ids: `[N]`, names of the samples for messages, or ().
    """

    index: int
    feeds: Mapping[str, Array]
    samples: int
    groups: tuple[str, ...] | None = None
    ids: tuple[str, ...] = ()


@runtime_checkable
class DataSource(Protocol):
    """Data that can be read several times, a batch at a time; the same batches in the same order each time."""

    @property
    def description(self) -> str:
        """What it is, for the report."""

    @property
    def batch_size(self) -> int:
        """Samples of a full batch; the last one may be shorter."""

    @property
    def samples(self) -> int | None:
        """How many there are, None where that is not known before they are read."""

    @property
    def grouped(self) -> bool:
        """Whether batches carry groups."""

    def batches(self) -> Iterator[Batch]:
        """From the start."""


@dataclass(frozen=True, slots=True, eq=False)
class Collected:
    """What one pass over data measured.

    Args:
        mode: `stored`, with the statistics of the file (pass E of §7); `batch`, with those of each batch (pass B).
        moments: by key of the site.
        samples, batches: that went through.
        sha256: of what was fed, in order.
        outputs: `[samples, ...]` by graph output, for outputs that are small; {} where they were not kept.
        skipped: sites that could not be measured, by key, with the reason.
    """

    mode: Literal["stored", "batch"]
    moments: Mapping[str, Moments]
    samples: int
    batches: int
    sha256: str = ""
    outputs: Mapping[str, Array] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)


def shift_of(mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """The shift of a site, `[C]`, from the file alone so that shards agree: the stored mean, 0 where it is not finite."""
    return np.where(np.isfinite(mean), mean, 0.0)
