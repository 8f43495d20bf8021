"""Expected value of an activation of a normal variable (§9): closed forms where there are some, quadrature elsewhere.

Everything is per channel: `mean` and `std` are `[C]`, and so are the results.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from normfold.model.tensors import Float64

Activation = Callable[[Float64], Float64]

# Gauss-Hermite rule of 32 nodes: E f(X) = π^(−½)·Σ w_j·f(mean + √2·std·t_j).
_NODES, _WEIGHTS = np.polynomial.hermite.hermgauss(32)
_ERF = np.vectorize(math.erf, otypes=[np.float64])
_NARROWEST, _FAR = 1e-150, 1e3  # beyond them nothing of a normal variable is on the other side of 0
_ONE_PER_ROOT_TWO_PI = 1.0 / math.sqrt(2.0 * math.pi)


def density(z: Float64) -> Float64:
    """φ."""
    return _ONE_PER_ROOT_TWO_PI * np.exp(-0.5 * z * z)


def distribution(z: Float64) -> Float64:
    """Φ."""
    return np.asarray(0.5 * (1.0 + _ERF(z / math.sqrt(2.0))))


def rectified(mean: Float64, std: Float64) -> tuple[Float64, Float64]:
    """Mean and variance of ReLU: g = β·Φ(z) + s·φ(z), E[f²] = (β² + s²)·Φ(z) + β·s·φ(z), z = β/s."""
    z = np.clip(mean / np.maximum(std, _NARROWEST), -_FAR, _FAR)
    upper, bell = distribution(z), density(z)
    first = mean * upper + std * bell
    second = (mean**2 + std**2) * upper + mean * std * bell
    return first, np.maximum(second - first**2, 0.0)


def leaky(slope: Float64, mean: Float64, std: Float64) -> tuple[Float64, Float64]:
    """Mean and variance of x above 0 and slope·x below: α·β + (1−α)·g(β, s), and likewise for the squares."""
    first, spread = rectified(mean, std)
    second = slope**2 * (mean**2 + std**2) + (1 - slope**2) * (spread + first**2)
    result = slope * mean + (1 - slope) * first
    return result, np.maximum(second - result**2, 0.0)


def activated(f: Activation, mean: Float64, std: Float64) -> tuple[Float64, Float64]:
    """Mean and variance of any activation, by quadrature."""
    points = mean[:, None] + math.sqrt(2.0) * std[:, None] * _NODES
    with np.errstate(over="ignore"):
        values = f(points)
    weights = _WEIGHTS / math.sqrt(math.pi)
    first = values @ weights
    return first, np.maximum(values**2 @ weights - first**2, 0.0)


def clipped(mean: Float64, std: Float64, low: float, high: float) -> tuple[Float64, Float64]:
    """Mean of a clip to [low, high] in closed form, lo + g(β−lo, s) − g(β−hi, s); its variance by quadrature."""
    first = np.full_like(mean, low) if math.isfinite(low) else mean.copy()
    if math.isfinite(low):
        first = first + rectified(mean - low, std)[0]
    if math.isfinite(high):
        first = first - rectified(mean - high, std)[0]
    return first, activated(lambda x: np.clip(x, low, high), mean, std)[1]
