"""Data sources over arrays in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from normfold.statistics.collect import Batch


@dataclass
class Arrays:
    """Batches of named arrays."""

    arrays: dict[str, np.ndarray]
    batch_size: int = 16
    groups: Sequence[str] | None = None
    description: str = "arrays"

    @property
    def samples(self) -> int:
        return len(next(iter(self.arrays.values())))

    @property
    def grouped(self) -> bool:
        return self.groups is not None

    def batches(self) -> Iterator[Batch]:
        for index, start in enumerate(range(0, self.samples, self.batch_size)):
            part = slice(start, start + self.batch_size)
            feeds = {name: array[part] for name, array in self.arrays.items()}
            groups = None if self.groups is None else tuple(self.groups[part])
            yield Batch(index, feeds, len(next(iter(feeds.values()))), groups)


def batches(x: np.ndarray, size: int = 16, groups: Sequence[str] | None = None) -> Arrays:
    return Arrays({"x": x}, size, groups)
