"""The affine algebra: every per-channel affine operator, and every chain of them, is one value `y = scale·x + shift`.

Scale and shift are float64 arrays in *broadcast form*: they have the rank of the tensor that they act on, and size 1 on
every axis along which they do not vary. A BatchNormalization on `[N, C, H, W]` is a pair of shape `[1, C, 1, 1]`, a
LayerScale on the last axis of `[N, T, D]` one of shape `[1, 1, D]`, a scalar one of shape `[1, …, 1]`. Composition, and
most crossings, are then plain numpy: the channel map of a Transpose is `np.transpose`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from normfold.affine.reasons import Refused
from normfold.model import dtypes

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """`y = scale·x + shift`, both float64 in broadcast form and of one rank."""

    scale: Float64
    shift: Float64

    @property
    def rank(self) -> int:
        """Rank of the tensor that it acts on."""
        return self.scale.ndim

    @property
    def varying(self) -> tuple[int, ...]:
        """The axes along which scale or shift differ."""
        return tuple(axis for axis, size in enumerate(self.shape) if size != 1)

    @property
    def shape(self) -> tuple[int, ...]:
        """The common broadcast shape of both."""
        if self.scale.shape == self.shift.shape:  # nearly always
            return self.scale.shape
        return np.broadcast_shapes(self.scale.shape, self.shift.shape)

    @property
    def is_uniform(self) -> bool:
        """Whether it is the same for every element."""
        return not self.varying

    @property
    def scales(self) -> bool:
        """Whether the scale is not 1 everywhere."""
        return bool((self.scale != 1).any())

    @property
    def shifts(self) -> bool:
        """Whether the shift is not 0 everywhere."""
        return bool(self.shift.any())

    @property
    def is_identity(self) -> bool:
        """Whether it changes nothing."""
        return not self.scales and not self.shifts

    def then(self, after: Affine) -> Affine:
        """First this, then `after`: `(s2, t2) ∘ (s1, t1) = (s2·s1, s2·t1 + t2)`."""
        with np.errstate(over="ignore", invalid="ignore"):  # of float64; `require_range` refuses what is not finite
            return Affine(after.scale * self.scale, after.scale * self.shift + after.shift)

    def only_scale(self) -> Affine:
        """The same scale without a shift."""
        return Affine(self.scale, np.zeros((1,) * self.rank))

    def compressed(self) -> Affine:
        """The same map with every axis along which nothing varies reduced to size 1."""
        return Affine(compress(self.scale), compress(self.shift))

    def stored(self, data_type: int) -> Affine:
        """The same map as parameters of that type hold it."""
        return Affine(dtypes.stored(self.scale, data_type), dtypes.stored(self.shift, data_type))

    def vectors(self, axis: int, size: int) -> tuple[Float64, Float64]:
        """Scale and shift per channel, each of shape `[size]`.

        Raises:
            Refused: `not-per-channel`, it varies along another axis or with another length.
        """
        if any(a != axis for a in self.varying) or self.shape[axis] not in (1, size):
            raise Refused(
                "not-per-channel",
                f"it varies as {list(self.shape)}, wanted one value for each of {size} channels on axis {axis}",
            )
        return _vector(self.scale, size), _vector(self.shift, size)


def _vector(values: Float64, size: int) -> Float64:
    flat = values.reshape(-1)
    return np.full(size, flat[0]) if flat.size == 1 else flat


def compress(values: Float64) -> Float64:
    """The values with every axis along which they do not differ reduced to size 1."""
    for axis, size in enumerate(values.shape):
        if size > 1:
            first = values.take([0], axis)
            if (values == first).all():
                values = first
    return values


def per_channel(scale: Float64, shift: Float64, rank: int, axis: int) -> Affine:
    """An affine that varies along one axis; `scale` and `shift` have shape `[C]`."""
    shape = [1] * rank
    if rank:
        shape[axis] = -1
    return Affine(scale.reshape(shape), shift.reshape(shape))


def uniform(scale: float, shift: float, rank: int) -> Affine:
    """The same affine for every element of a tensor of that rank."""
    shape = (1,) * rank
    return Affine(np.full(shape, scale), np.full(shape, shift))
