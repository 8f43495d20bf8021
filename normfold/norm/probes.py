"""The data on which a norm is confirmed: rows of several kinds, each of which gives some mistake away."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from normfold.norm.meaning import Float64
from normfold.norm.rows import Rows

_SEED = 20240229
_CACHED = 1 << 16
# Irrational and pairwise independent, so that no two index vectors have the same sum.
_SLOPES = tuple(math.sqrt(prime) for prime in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31))
_OUTLIER = 1e4


@dataclass(frozen=True, slots=True)
class Draw:
    """Rows to make data of, `[rows, length]` each.

    Args:
        normal: standard normal numbers.
        ramp: makes a sum of index ramps along every axis of the tensor that the rows come from.
        number: which row each is, `[rows, 1]`.
        root: the square root of epsilon, 1 where epsilon is 0.
    """

    normal: Float64
    ramp: Callable[[], Float64]
    number: Float64
    root: float


@dataclass(frozen=True, slots=True)
class Probe:
    """One kind of row.

    Args:
        name: what it is, for messages.
        rows: makes the rows.
        of_epsilon: whether it makes no sense where epsilon is 0.
    """

    name: str
    rows: Callable[[Draw], Float64]
    of_epsilon: bool = False


def _own_mean_and_scale(draw: Draw) -> Float64:
    """Every row its own: the golden ratio spreads the row numbers evenly over [0, 1)."""
    place = (draw.number * 0.6180339887498949) % 1.0
    own: Float64 = (4.0 * place - 2.0) + (0.5 + 1.5 * place) * draw.normal
    return own


def _deviation(factor: float, mean: float = 0.0) -> Callable[[Draw], Float64]:
    return lambda draw: draw.root * (mean + factor * draw.normal)


def _outlier(draw: Draw) -> Float64:
    rows = draw.normal.copy()
    rows[:, rows.shape[1] // 2] = _OUTLIER
    return rows


def _constant_row(draw: Draw) -> Float64:
    """Large beside the root of epsilon, and not so large that rounding of the mean would show in what is left of it."""
    return np.broadcast_to(70.0 * draw.root * (1.0 + draw.number % 3.0), draw.normal.shape)


NORMAL = Probe("standard normal", lambda draw: draw.normal)
THOROUGH = (
    NORMAL,
    Probe("own mean and scale in every row", _own_mean_and_scale),
    Probe("index ramp", lambda draw: draw.ramp()),
    Probe("deviation 0.1·√epsilon", _deviation(0.1), of_epsilon=True),
    Probe("deviation √epsilon", _deviation(1.0), of_epsilon=True),
    Probe("deviation 10·√epsilon", _deviation(10.0), of_epsilon=True),
    Probe("mean 3, deviation 2", lambda draw: 3.0 + 2.0 * draw.normal),
    Probe("all positive", lambda draw: 0.1 + np.abs(draw.normal)),
    Probe("all negative", lambda draw: -0.1 - np.abs(draw.normal)),
    Probe("mean 1000, deviation 1", lambda draw: 1e3 + draw.normal),
    Probe("one outlier of 10000", _outlier),
    Probe("constant rows", _constant_row),
    Probe("zeros", lambda draw: np.zeros_like(draw.normal)),
)
# Ordered so that the first alone, which is all that fits where there is one row, sees epsilon, mean and sign.
QUICK = (
    Probe("mean and deviation near √epsilon", _deviation(1.0, mean=1.5)),
    Probe("own mean and scale in every row", _own_mean_and_scale),
    Probe("deviation 0.1·√epsilon", _deviation(0.1)),
    Probe("all negative", lambda draw: -0.1 - np.abs(draw.normal)),
    Probe("deviation 10·√epsilon", _deviation(10.0)),
    Probe("one outlier of 10000", _outlier),
)


class Source:
    """Makes tensors in which the rows are of different kinds.

    Args:
        rows: how a tensor falls into rows.
        probes: the kinds.
        epsilon: of the norm.
    """

    def __init__(self, rows: Rows, probes: Sequence[Probe], epsilon: float) -> None:
        self._rows = rows
        self._probes = probes
        self._root = math.sqrt(epsilon) if epsilon > 0 else 1.0
        self._normal = _normal(rows.count, rows.length)
        self._ramp: Float64 | None = None

    def draw(self, offset: int) -> Float64:
        """Rows `[count, length]`, of which row r is of the kind `kind(r, offset)`."""
        made = np.empty_like(self._normal)
        count = len(self._probes)
        for index, probe in enumerate(self._probes):
            first = (index - offset) % count
            if first < len(made):
                part = slice(first, None, count)
                made[part] = probe.rows(self._drawn(part))
        return made

    def kinds(self, offset: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
        """The index of the probe that every row is of, `[count]`."""
        return (np.arange(self._rows.count) + offset) % len(self._probes)

    def _drawn(self, part: slice) -> Draw:
        number = np.arange(part.start, self._rows.count, part.step, dtype=np.float64)[:, None]
        return Draw(self._normal[part], lambda: self._ramps()[part], number, self._root)

    def _ramps(self) -> Float64:
        if self._ramp is None:
            shape = self._rows.shape
            ramp = np.zeros(shape)
            for axis, extent in enumerate(shape):
                steps = np.arange(extent) * (_SLOPES[axis % len(_SLOPES)] / extent)
                ramp += steps.reshape([-1 if a == axis else 1 for a in range(len(shape))])
            self._ramp = self._rows.gather(ramp)
        return self._ramp


def _normal(count: int, length: int) -> Float64:
    return _cached(count, length) if count * length <= _CACHED else _drawn_anew(count, length)


def _drawn_anew(count: int, length: int) -> Float64:
    return np.random.default_rng(_SEED).standard_normal((count, length))


@lru_cache(maxsize=16)
def _cached(count: int, length: int) -> Float64:
    values = _drawn_anew(count, length)
    values.setflags(write=False)
    return values
