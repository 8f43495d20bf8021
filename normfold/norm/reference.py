"""A norm in normal form, computed by its definition in float64, with the mean taken off before anything is squared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from normfold.norm.meaning import Float64, Norm
from normfold.norm.rows import Rows, Statistics


class Standardised(NamedTuple):
    """Rows without gamma and beta.

    Args:
        values: `(x - c·mean) / sqrt(V + epsilon)`, `[count, length]`.
        condition: `mean(x²) / (V + epsilon)` of every row, `[count]`: how much rounding errors of the statistics grow.
    """

    values: Float64
    condition: Float64


def normalise(norm: Norm, x: Float64, operands: Mapping[str, Float64] | None = None) -> Float64:
    """The norm of `x`.

    Args:
        norm: which norm; its symbols and unknown extents may be anything.
        x: float64, of the rank of the norm.
        operands: the tensors named by `norm.scale` and `norm.bias`, of the shape `x.shape[axes[0]:]`.

    Returns:
        float64, of the shape of `x`; NaN where the definition has 0/0.

    Raises:
        ValueError: the groups do not divide the channels, or a parameter does not fit.
    """
    statistics = Statistics.of(norm)
    rows = Rows(statistics, x.shape)
    return affine(norm, rows.scatter(standardised(statistics, rows.gather(x)).values), operands or {})


def standardised(of: Statistics, rows: Float64) -> Standardised:
    """Rows `[count, length]` with mean 0 (where the norm is centred) and mean square 1."""
    with np.errstate(all="ignore"):
        length = rows.shape[1]
        deviation, square_of_mean = rows, np.zeros((rows.shape[0], 1))
        if of.centred:
            mean = np.add.reduce(rows, axis=1, keepdims=True) / length
            deviation, square_of_mean = rows - mean, mean * mean
        variance = np.add.reduce(deviation * deviation, axis=1, keepdims=True) / length
        moment = variance + of.epsilon
        condition = (variance + square_of_mean) / moment
        return Standardised(deviation / np.sqrt(moment), condition[:, 0])


def affine(norm: Norm, y: Float64, operands: Mapping[str, Float64]) -> Float64:
    """Apply gamma and beta, or what takes their place, to a tensor of the shape of `x`."""
    gamma = norm.gamma if norm.scale is None else operands[norm.scale]
    beta = norm.beta if norm.bias is None else operands[norm.bias]
    shape = y.shape
    with np.errstate(all="ignore"):
        y = y if gamma is None else y * gamma
        y = y if beta is None else y + beta
    if y.shape != shape:
        raise ValueError(f"gamma or beta turn {list(shape)} into {list(y.shape)}")
    return y
