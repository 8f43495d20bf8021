"""The data on which a norm is confirmed: rows of several kinds, each of which gives some mistake away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from normfold.norm.meaning import Float64

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
