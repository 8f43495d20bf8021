"""The same data seen differently: fewer samples, smaller batches, another preparation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count

from normfold.statistics.collect import Array, Batch, DataSource


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A `DataSource` over another.

    Args:
        base: the data.
        limit: stop after the batch in which so many samples are reached; None for all.
        size: cut batches into parts of this size, None for as they are.
        transform: of the feeds of a batch, None for none.
    """

    base: DataSource
    limit: int | None = None
    size: int | None = None
    transform: Callable[[Mapping[str, Array]], dict[str, Array]] | None = None

    @property
    def description(self) -> str:
        """That of the data."""
        return self.base.description

    @property
    def batch_size(self) -> int:
        """Of the parts."""
        return self.size or self.base.batch_size

    @property
    def samples(self) -> int | None:
        """How many there are."""
        known = self.base.samples
        if known is None or self.limit is None:
            return known
        whole = -(-self.limit // self.base.batch_size) * self.base.batch_size
        return min(known, whole)

    @property
    def grouped(self) -> bool:
        """As the data."""
        return self.base.grouped

    def batches(self) -> Iterator[Batch]:
        """From the start."""
        seen = 0
        number = count()
        for batch in self.base.batches():
            if self.limit is not None and seen >= self.limit:
                return
            seen += batch.samples
            whole = batch if self.transform is None else replace(batch, feeds=self.transform(batch.feeds))
            for part in _parts(whole, self.size):
                yield replace(part, index=next(number))


def _parts(batch: Batch, size: int | None) -> Iterator[Batch]:
    if size is None or batch.samples <= size:
        yield batch
        return
    for start in range(0, batch.samples, size):
        part = slice(start, start + size)
        feeds = {name: value[part] for name, value in batch.feeds.items()}
        groups = None if batch.groups is None else batch.groups[part]
        yield replace(batch, feeds=feeds, samples=min(size, batch.samples - start), groups=groups, ids=batch.ids[part])
