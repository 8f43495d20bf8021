"""From readers to batches. A reader knows a kind of file; cutting, shuffling, limiting and checking is the same for all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from normfold.errors import InputError, UsageError
from normfold.statistics.collect import Array, Batch
from normfold.statistics.data.inputs import ModelInput, fitted, fixed_batch
from normfold.statistics.data.options import DataOptions


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Some samples: `[N, …]` by input, `[N]` groups where there is a group key, `[N]` names or ()."""

    arrays: Mapping[str, Array]
    groups: tuple[str, ...] | None = None
    ids: tuple[str, ...] = ()

    @property
    def samples(self) -> int:
        """N."""
        return len(next(iter(self.arrays.values())))


class Indexed(Protocol):
    """Samples that can be read in any order."""

    @property
    def description(self) -> str:
        """What it is."""

    @property
    def samples(self) -> int:
        """How many there are."""

    def take(self, indices: Sequence[int]) -> Rows:
        """These samples, in this order."""


class Streamed(Protocol):
    """Samples that come in an order of their own."""

    @property
    def description(self) -> str:
        """What it is."""

    def rows(self) -> Iterator[Rows]:
        """From the start."""


class _Source:
    """What both kinds of source share."""

    def __init__(self, description: str, inputs: tuple[ModelInput, ...], options: DataOptions, batch_size: int) -> None:
        self._inputs, self._options = inputs, options
        self._description, self._batch_size = description, batch_size
        self._only_full = fixed_batch(inputs) is not None

    @property
    def description(self) -> str:
        """What it is, for the report."""
        return self._description

    @property
    def batch_size(self) -> int:
        """Samples of a full batch."""
        return self._batch_size

    @property
    def grouped(self) -> bool:
        """Whether batches carry groups."""
        return bool(self._options.group_key)

    def _batch(self, index: int, rows: Rows) -> Batch:
        first = index * self._batch_size
        feeds = {e.name: fitted(e, rows.arrays[e.name], self._description, first) for e in self._inputs}
        return Batch(index, feeds, rows.samples, rows.groups, rows.ids)

    def _too_few(self, samples: int) -> InputError:
        if not samples:
            return InputError("data.empty", "there are no samples", where=self._description)
        return InputError(
            "data.empty", f"the model takes batches of {self._batch_size} only, and there are {samples} samples",
            where=self._description,
        )  # fmt: skip


class IndexedSource(_Source):
    """A `DataSource` over an `Indexed`.

    Raises:
        InputError: there are no samples, or fewer than the one batch that the model takes.
    """

    def __init__(self, reader: Indexed, inputs: tuple[ModelInput, ...], options: DataOptions, batch_size: int) -> None:
        super().__init__(reader.description, inputs, options, batch_size)
        self._reader = reader
        samples = reader.samples if options.limit is None else min(reader.samples, options.limit)
        usable = samples - samples % batch_size if self._only_full else samples
        if not usable:
            raise self._too_few(samples)
        self._samples = usable

    @property
    def samples(self) -> int:
        """How many are read."""
        return self._samples

    def batches(self) -> Iterator[Batch]:
        """From the start."""
        order: Sequence[int] = range(self._reader.samples)
        if self._options.seed is not None:
            order = [int(i) for i in np.random.default_rng(self._options.seed).permutation(self._reader.samples)]
        for index, start in enumerate(range(0, self._samples, self._batch_size)):
            rows = self._reader.take(order[start : min(start + self._batch_size, self._samples)])
            yield self._batch(index, rows)


class StreamedSource(_Source):
    """A `DataSource` over a `Streamed`.

    Raises:
        UsageError: a seed, because a stream cannot be shuffled.
    """

    def __init__(self, reader: Streamed, inputs: tuple[ModelInput, ...], options: DataOptions, batch_size: int) -> None:
        super().__init__(reader.description, inputs, options, batch_size)
        self._reader = reader
        if options.seed is not None:
            raise UsageError(
                "usage.data", "--seed shuffles data that can be read in any order; a function is read as it comes",
                where=reader.description, hint="shuffle inside of the function",
            )  # fmt: skip

    @property
    def samples(self) -> int | None:
        """Not known before they are read."""
        return None

    def batches(self) -> Iterator[Batch]:
        """From the start.

        Raises:
            InputError: there are no samples.
        """
        index = seen = 0
        for index, rows in enumerate(self._cut(), 1):
            seen += rows.samples
            if self._only_full and rows.samples < self._batch_size:
                index -= 1
                break
            yield self._batch(index - 1, rows)
        if not index:
            raise self._too_few(seen)

    def _cut(self) -> Iterator[Rows]:
        """Rows in portions of a batch, the limit kept."""
        left = self._options.limit
        held: list[Rows] = []
        count = 0
        for rows in self._reader.rows():
            part = rows if left is None else _slice(rows, 0, min(left, rows.samples))
            left = None if left is None else left - part.samples
            held.append(part)
            count += part.samples
            while count >= self._batch_size:
                joined = _join(held)
                yield _slice(joined, 0, self._batch_size)
                held = [_slice(joined, self._batch_size, joined.samples)]
                count -= self._batch_size
            if left == 0:
                break
        if count:
            yield _join(held)


def _slice(rows: Rows, start: int, stop: int) -> Rows:
    groups = None if rows.groups is None else rows.groups[start:stop]
    return Rows({name: a[start:stop] for name, a in rows.arrays.items()}, groups, rows.ids[start:stop])


def _join(parts: Sequence[Rows]) -> Rows:
    parts = [part for part in parts if part.samples]
    if len(parts) == 1:
        return parts[0]
    arrays = {name: np.concatenate([part.arrays[name] for part in parts]) for name in parts[0].arrays}
    grouped = all(part.groups is not None for part in parts)
    groups = tuple(g for part in parts for g in part.groups or ()) if grouped else None
    return Rows(arrays, groups, tuple(i for part in parts for i in part.ids))
