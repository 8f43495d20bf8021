"""A tensor as the rows over which a norm takes its statistics, and sums that lose as little as they can."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from normfold.norm.meaning import Float64, Norm

Extents = tuple[int, ...]


class Statistics(NamedTuple):
    """The part of a norm that gamma and beta have no part in: what is taken of which elements. As in `Norm`."""

    centred: bool
    axes: tuple[int, ...]
    epsilon: float
    groups: int | None
    channel: int | None

    @classmethod
    def of(cls, norm: Norm) -> Statistics:
        """Those of a norm."""
        return cls(norm.centred, norm.axes, norm.epsilon, norm.groups, norm.channel)


def mean_over(x: Float64, axes: Sequence[int], *, keepdims: bool = True) -> Float64:
    """The mean over some axes, none of them negative; float64.

    numpy sums pairwise along the axis that is contiguous in memory, with an error that grows with the logarithm of the
    length, and one after the other along every other axis, with an error that grows with the length. Hence the copy.
    """
    total = sum_over(x, axes, keepdims=keepdims)
    mean: Float64 = total / math.prod(x.shape[axis] for axis in set(axes))
    return mean


def sum_over(x: Float64, axes: Sequence[int], *, keepdims: bool = True) -> Float64:
    """The sum over some axes, none of them negative, added pairwise."""
    gone = sorted(set(axes))
    kept = [axis for axis in range(x.ndim) if axis not in gone]
    shape = [x.shape[axis] for axis in kept]
    length = math.prod(x.shape[axis] for axis in gone)
    ordered = x if kept == list(range(len(kept))) else x.transpose((*kept, *gone))
    total: Float64 = np.add.reduce(np.ascontiguousarray(ordered).reshape((*shape, length)), axis=-1)
    return total.reshape([1 if axis in gone else n for axis, n in enumerate(x.shape)]) if keepdims else total


class Rows:
    """How a tensor of a shape falls into rows: one row is what one mean and one variance are taken of.

    Args:
        of: whose axes and groups.
        shape: extents of `x`, of the rank of the norm.

    Attributes:
        count: number of rows.
        length: number of elements in each.

    Raises:
        ValueError: the groups do not divide the channels.
    """

    __slots__ = ("_channel", "_groups", "_inverse", "_kept", "_order", "_reduced", "_split", "count", "length", "shape")

    def __init__(self, of: Statistics, shape: Extents) -> None:
        self.shape = shape
        self._groups, self._channel = of.groups, of.channel
        if of.groups is not None and of.channel is not None and shape[of.channel] % of.groups:
            raise ValueError(f"{of.groups} groups do not divide {shape[of.channel]} channels")
        self._split = self._cut(shape)
        self._reduced = self._reduced_of(of.axes)
        self._kept = tuple(axis for axis in range(len(self._split)) if axis not in self._reduced)
        order = (*self._kept, *self._reduced)
        is_ordered = order == tuple(range(len(order)))
        self._order = None if is_ordered else order
        self._inverse = None if is_ordered else tuple(sorted(range(len(order)), key=order.__getitem__))
        self.count = math.prod(self._split[axis] for axis in self._kept)
        self.length = math.prod(self._split[axis] for axis in self._reduced)

    def gather(self, x: Float64) -> Float64:
        """`x` as `[count, length]`, every row contiguous."""
        split = x.reshape(self._split)
        ordered = split if self._order is None else split.transpose(self._order)
        return np.ascontiguousarray(ordered.reshape(self.count, self.length))

    def scatter(self, rows: Float64) -> Float64:
        """`[count, length]` in the shape of `x`."""
        if self._order is None or self._inverse is None:
            return rows.reshape(self.shape)
        ordered = rows.reshape([self._split[axis] for axis in self._order])
        return np.ascontiguousarray(ordered.transpose(self._inverse)).reshape(self.shape)

    def largest(self, parameter: Float64) -> Float64:
        """The largest magnitude of a parameter (each extent 1 or that of `x`) in every row: `[count]`."""
        split = np.abs(parameter).reshape(self._cut(parameter.shape)).max(axis=self._reduced)
        return np.broadcast_to(split, [self._split[axis] for axis in self._kept]).reshape(-1)

    def _cut(self, shape: Extents) -> Extents:
        if self._groups is None or self._channel is None:
            return shape
        channels, groups = shape[self._channel], self._groups
        # a parameter that does not vary along the channels has extent 1 there
        parts = (groups, channels // groups) if channels % groups == 0 else (1, channels)
        return (*shape[: self._channel], *parts, *shape[self._channel + 1 :])

    def _reduced_of(self, axes: tuple[int, ...]) -> tuple[int, ...]:
        if self._groups is None or self._channel is None:
            return axes
        channel = self._channel
        return tuple(sorted((channel + 1, *(axis if axis < channel else axis + 1 for axis in axes))))
