"""Tensors to try a norm on, and what its statistics make of them: the same for all norms with the same statistics."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from normfold.norm.meaning import Float64
from normfold.norm.probes import Draw, Probe
from normfold.norm.reference import standardised
from normfold.norm.rows import Extents, Rows, Statistics

_SEED = 20240229
# Up to so many elements, the first trial of a shape is kept: finds of known structure ask for nothing else, again and again.
_KEPT = 1 << 14
# Irrational and pairwise independent, so that no two index vectors have the same sum.
_SLOPES = tuple(math.sqrt(prime) for prime in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31))


@dataclass(frozen=True, slots=True)
class Trial:
    """One tensor, in which the rows are of different kinds.

    Args:
        x: the tensor.
        normal: x with the mean taken off and divided by the root, gamma and beta left out; of the shape of x.
        condition: of every row, as `Standardised` has it.
        probes: the kinds.
        kinds: the index of the probe that every row is of, `[count]`.
    """

    x: Float64
    normal: Float64
    condition: Float64
    probes: tuple[Probe, ...]
    kinds: NDArray[np.intp]

    def probe(self, row: int) -> str:
        """The name of the probe that a row is of."""
        return self.probes[int(self.kinds[row])].name

    def names(self, chosen: NDArray[np.bool_]) -> Iterator[str]:
        """The names of the probes that the chosen rows are of."""
        return (self.probes[kind].name for kind in set(self.kinds[chosen].tolist()))


class Trials:
    """All trials of one shape.

    Args:
        statistics: of the norm.
        shape: of x.
        probes: the kinds of rows.

    Raises:
        ValueError: the groups do not divide the channels.
    """

    def __init__(self, statistics: Statistics, shape: Extents, probes: tuple[Probe, ...]) -> None:
        self.rows = Rows(statistics, shape)
        self._statistics = statistics
        self._probes = probes
        self._root = math.sqrt(statistics.epsilon) if statistics.epsilon > 0 else 1.0
        self._normal = np.random.default_rng(_SEED).standard_normal((self.rows.count, self.rows.length))
        self._ramp: Float64 | None = None
        self._first: Trial | None = None

    def offsets(self, comfortable: int) -> list[int]:
        """Where the kinds of rows begin in every round, such that every kind occurs in one of them.

        Every row is of every kind once where that takes no more than `comfortable` elements. A large tensor with many rows
        holds several kinds at once, and fewer rounds do.
        """
        kinds, rows = len(self._probes), self.rows
        rounds = min(kinds, max(-(-kinds // rows.count), comfortable // (rows.count * rows.length)))
        step = -(-kinds // rounds)
        return [number * step for number in range(rounds)]

    def at(self, offset: int) -> Trial:
        """The trial in which row r is of kind `(r + offset) % kinds`."""
        if offset or not is_small(self.rows.shape):
            return self._made(offset)
        if self._first is None:
            self._first = self._made(0)
        return self._first

    def _made(self, offset: int) -> Trial:
        rows = self._drawn(offset)
        normal = standardised(self._statistics, rows)
        kinds = (np.arange(self.rows.count) + offset) % len(self._probes)
        parts = (self.rows.scatter(rows), self.rows.scatter(normal.values), normal.condition, kinds)
        for part in parts:
            part.setflags(write=False)
        x, values, condition, _ = parts
        return Trial(x, values, condition, self._probes, kinds)

    def _drawn(self, offset: int) -> Float64:
        made = np.empty_like(self._normal)
        count = len(self._probes)
        for index, probe in enumerate(self._probes):
            first = (index - offset) % count
            if first < len(made):
                part = slice(first, None, count)
                made[part] = probe.rows(self._draw(part))
        return made

    def _draw(self, part: slice) -> Draw:
        number = np.arange(part.start, self.rows.count, part.step, dtype=np.float64)[:, None]
        return Draw(self._normal[part], lambda: self._ramps()[part], number, self._root)

    def _ramps(self) -> Float64:
        if self._ramp is None:
            shape = self.rows.shape
            ramp = np.zeros(shape)
            for axis, extent in enumerate(shape):
                steps = np.arange(extent) * (_SLOPES[axis % len(_SLOPES)] / extent)
                ramp += steps.reshape([-1 if a == axis else 1 for a in range(len(shape))])
            self._ramp = self.rows.gather(ramp)
        return self._ramp


def is_small(shape: Extents) -> bool:
    """Whether trials of that shape are worth keeping."""
    return math.prod(shape) <= _KEPT


def trials_of(statistics: Statistics, shape: Extents, probes: tuple[Probe, ...]) -> Trials:
    """Trials, those that were made before where they are small.

    Raises:
        ValueError: the groups do not divide the channels.
    """
    return _remembered(statistics, shape, probes) if is_small(shape) else Trials(statistics, shape, probes)


@lru_cache(maxsize=16)
def _remembered(statistics: Statistics, shape: Extents, probes: tuple[Probe, ...]) -> Trials:
    return Trials(statistics, shape, probes)
