"""Data in two parts: one that statistics are estimated on, one that the repair is judged on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from normfold.errors import InputError
from normfold.statistics.collect import Batch, DataSource

# One part in four is held out: enough to judge on, and the estimate loses little.
_EVERY = 4


@dataclass(frozen=True, slots=True)
class Split:
    """One part of a source, itself a `DataSource`.

    Whole batches are held out, so that the others stay as they are cut. With a group key it is whole groups, which would
    otherwise stand on both sides; batches of such a source are of uneven size.

    Args:
        source: all of it.
        held_out: which part.
    """

    source: DataSource
    held_out: bool

    @property
    def description(self) -> str:
        """Of the whole."""
        return self.source.description

    @property
    def batch_size(self) -> int:
        """Samples of a full batch."""
        return self.source.batch_size

    @property
    def samples(self) -> int | None:
        """Not known: it hangs on the last batch."""
        return None

    @property
    def grouped(self) -> bool:
        """Whether batches carry groups."""
        return self.source.grouped

    def batches(self) -> Iterator[Batch]:
        """Those of this part.

        Raises:
            InputError: `data.too_few`, nothing would be left to judge on.
        """
        found = False
        for batch in self.source.batches():
            part = self._of_groups(batch) if self.source.grouped else self._whole(batch)
            if part is not None:
                found = True
                yield part
        if not found:
            unit = "groups" if self.source.grouped else "batches"
            raise InputError(
                "data.too_few",
                f"fewer than {_EVERY} {unit}: none can be held out to judge the repair on",
                where=self.source.description,
                hint="give more data, or a smaller --batch",
            )

    def positions(self) -> Iterator[int]:
        """Of the samples of this part in the whole; the data is read once more."""
        for batch in self.source.batches():
            start = batch.index * self.source.batch_size
            if not self.source.grouped:
                yield from range(start, start + batch.samples) if self._whole(batch) else ()
            else:
                yield from (start + i for i, mine in enumerate(self._mine(batch)) if mine)

    def _mine(self, batch: Batch) -> NDArray[np.bool_]:
        assert batch.groups is not None
        return np.array([_is_held_out(group) is self.held_out for group in batch.groups])

    def _whole(self, batch: Batch) -> Batch | None:
        return batch if (batch.index % _EVERY == _EVERY - 1) is self.held_out else None

    def _of_groups(self, batch: Batch) -> Batch | None:
        chosen = self._mine(batch)
        if not chosen.any() or batch.groups is None:
            return None
        groups = tuple(group for group, mine in zip(batch.groups, chosen, strict=True) if mine)
        ids = tuple(name for name, mine in zip(batch.ids, chosen, strict=True) if mine) if batch.ids else ()
        feeds = {name: value[chosen] for name, value in batch.feeds.items()}
        return Batch(batch.index, feeds, int(chosen.sum()), groups, ids)


def _is_held_out(group: str) -> bool:
    """By the name alone, so that it does not matter in which order groups come."""
    return hashlib.sha256(group.encode()).digest()[0] % _EVERY == _EVERY - 1
