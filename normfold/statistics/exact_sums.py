"""Sums that do not care in which order, or in how many parts, they are made: pairs of doubles, about 32 digits.

Adding parts of statistics is then all that merging takes, and a merged result rounds to the same number as one pass.
The error-free addition is Knuth's; see Ogita, Rump, Oishi, "Accurate sum and dot product", 2005.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class ExactSum:
    """An array of sums, each `high + low` with |low| at most half a unit in the last place of high."""

    high: Float64
    low: Float64

    @staticmethod
    def zeros(*shape: int) -> ExactSum:
        """The empty sum."""
        return ExactSum(np.zeros(shape), np.zeros(shape))

    @staticmethod
    def over_first(terms: Float64) -> ExactSum:
        """The sum of `[N, ...]` over its first axis, by halving."""
        if not len(terms):
            return ExactSum.zeros(*terms.shape[1:])
        high, low = terms.astype(np.float64), np.zeros(terms.shape)
        while len(high) > 1:
            if len(high) % 2:
                padding = np.zeros((1, *high.shape[1:]))
                high, low = np.concatenate((high, padding)), np.concatenate((low, padding))
            high, low = _add(high[::2], low[::2], high[1::2], low[1::2])
        return ExactSum(high[0], low[0])

    def __add__(self, other: ExactSum) -> ExactSum:
        return ExactSum(*_add(self.high, self.low, other.high, other.low))

    def channels(self, part: slice) -> ExactSum:
        """Some entries of the last axis, copied."""
        return ExactSum(self.high[..., part].copy(), self.low[..., part].copy())

    @property
    def value(self) -> Float64:
        """Rounded to one double."""
        return self.high + self.low


def _add(high: Float64, low: Float64, other_high: Float64, other_low: Float64) -> tuple[Float64, Float64]:
    """Sum of two pairs; the error is at most a few units of 2**-104."""
    total, error = _two_sum(high, other_high)
    rest, rest_error = _two_sum(low, other_low)
    total, error = _fast_two_sum(total, error + rest)
    return _fast_two_sum(total, error + rest_error)


def _two_sum(a: Float64, b: Float64) -> tuple[Float64, Float64]:
    total = a + b
    shadow = total - a
    return total, (a - (total - shadow)) + (b - shadow)


def _fast_two_sum(a: Float64, b: Float64) -> tuple[Float64, Float64]:
    total = a + b
    return total, b - (total - a)
