"""Made data that is like photographs where it matters to statistics: correlated in space, and different from sample to sample.

A test that takes pixels for independent is wrong on such data by a factor of ten and more, and a batch of one class has
other statistics than a shuffled one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CLASSES = 6
SIDE, FEATURES = 16, 24
# Of the usual recipe: what "normalise" subtracts and divides by, for pixels in 0…1.
MEAN = np.array([0.485, 0.456, 0.406]).reshape(3, 1, 1)
STD = np.array([0.229, 0.224, 0.225]).reshape(3, 1, 1)
# Colours whose order can be told from their statistics: bright red, dark blue.
WARM = (np.array([0.62, 0.45, 0.28]).reshape(3, 1, 1), np.array([0.20, 0.14, 0.08]).reshape(3, 1, 1))
PLAIN = (MEAN, STD)

Float32 = NDArray[np.float32]
Labels = NDArray[np.int64]


def images(samples: int, seed: int, *, warm: bool = True) -> tuple[Float32, Labels]:
    """Draw pixels in 0…1, `[N, 3, SIDE, SIDE]`, and classes, `[N]`.

    Every class has a smooth pattern; on top come the light of the sample, smooth clutter, and a little noise.
    """
    rng = np.random.default_rng([seed, 1])
    labels = rng.integers(0, CLASSES, samples)
    patterns = _smooth(np.random.default_rng(7), (CLASSES, 3))
    light = rng.standard_normal((samples, 1, 1, 1)) + 0.4 * rng.standard_normal((samples, 3, 1, 1))
    noise = rng.standard_normal((samples, 3, SIDE, SIDE))
    values = 0.8 * patterns[labels] + 0.35 * light + 0.5 * _smooth(rng, (samples, 3)) + 0.25 * noise
    mean, std = WARM if warm else PLAIN
    return np.clip(mean + std * values, 0, 1).astype(np.float32), labels


def normalised(pixels: Float32) -> Float32:
    """As the usual recipe wants pixels that are in 0…1."""
    return ((pixels - MEAN) / STD).astype(np.float32)


def rows(samples: int, seed: int) -> tuple[Float32, Labels]:
    """Draw rows of a table, `[N, FEATURES]`, whose columns are correlated and differ in scale, and classes."""
    rng = np.random.default_rng([seed, 2])
    fixed = np.random.default_rng(11)
    centres, mixing = fixed.standard_normal((CLASSES, FEATURES)), fixed.standard_normal((FEATURES, FEATURES)) / 5
    labels = rng.integers(0, CLASSES, samples)
    values = centres[labels] + rng.standard_normal((samples, FEATURES)) @ mixing
    return (values * np.geomspace(0.3, 3, FEATURES) + np.linspace(-1, 1, FEATURES)).astype(np.float32), labels


def _smooth(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Fields of unit variance, `[*shape, SIDE, SIDE]`, interpolated between a few drawn values."""
    coarse = rng.standard_normal((*shape, 5, 5))
    place = np.linspace(0, 3.999, SIDE)
    left, share = place.astype(int), place % 1
    weights = np.zeros((SIDE, 5))
    weights[np.arange(SIDE), left], weights[np.arange(SIDE), left + 1] = 1 - share, share
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    return np.einsum("ip,jq,...pq->...ij", weights, weights, coarse)
