"""Sums that do not care in which order, or in how many parts, they are made: pairs of doubles, about 32 digits.

Adding parts of statistics is then all that merging takes, and a merged result rounds to the same number as one pass.
The error-free addition is Knuth's; see Ogita, Rump, Oishi, "Accurate sum and dot product", 2005.
"""

from __future__ import annotations

import math
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
        """The sum of finite `[N, ...]` over its first axis.

        The high parts of all terms, cut at one power of two for each entry, add up without rounding in any order, and so do
        the next lower parts; what is left then is about 2**-100 of the largest term (Rump, Ogita, Oishi, "Accurate
        floating-point summation", 2008, ExtractVector).
        """
        if not len(terms):
            return ExactSum.zeros(*terms.shape[1:])
        values = np.asarray(terms, np.float64)
        bits = math.ceil(math.log2(len(values) + 2))
        _, exponent = np.frexp(np.maximum(values.max(axis=0), -values.min(axis=0)))
        high, rest = _extracted(values, np.ldexp(1.0, exponent + bits))
        middle, rest = _extracted(rest, np.ldexp(1.0, exponent + 2 * bits - 53))
        total, error = _two_sum(high, middle)
        return ExactSum(*_fast_two_sum(total, error + rest.sum(axis=0)))

    def scaled(self, factor: Float64) -> ExactSum:
        """Every entry times a double, which broadcasts."""
        product, error = _two_product(self.high, factor)
        return ExactSum(*_fast_two_sum(product, error + self.low * factor))

    def rows(self, *parts: int) -> ExactSum:
        """Some entries of the first axis."""
        return ExactSum(self.high[list(parts)], self.low[list(parts)])

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


def _extracted(values: Float64, cut: Float64) -> tuple[Float64, Float64]:
    """The sum over the first axis of what stands above the last place of `cut`, and the rest of each value."""
    high = values + cut
    high -= cut
    total: Float64 = high.sum(axis=0)
    return total, np.subtract(values, high, out=high)


def _two_product(a: Float64, b: Float64) -> tuple[Float64, Float64]:
    """Product and its rounding error, by Dekker's splitting in halves of 26 bits."""
    product = a * b
    (a_high, a_low), (b_high, b_low) = _halves(a), _halves(b)
    return product, a_low * b_low - (((product - a_high * b_high) - a_low * b_high) - a_high * b_low)


def _halves(a: Float64) -> tuple[Float64, Float64]:
    shifted = a * 134217729.0  # 2**27 + 1
    high = shifted - (shifted - a)
    return high, a - high


def _fast_two_sum(a: Float64, b: Float64) -> tuple[Float64, Float64]:
    total = a + b
    return total, b - (total - a)
