"""The weights of merged operators, as formulas in float64 that are evaluated when somebody writes or compares them.

Sums run in a fixed order, element by element: a matrix product of the linear algebra library would depend on the number
of its threads in the last bit, and so would, once in a while, the rounded weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from normfold.affine.merge.views import Convolution
from normfold.affine.window import Ints
from normfold.model.constants import float64
from normfold.model.tensors import Float64, TensorSource

# A block of a product stays in the cache while its terms are added.
_ROWS, _COLUMNS = 16, 4096


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """`s[o]·W[o, …]` at an offset inside a larger kernel."""

    weight: TensorSource
    scale: Float64
    offset: Ints

    def add_to(self, target: Float64) -> None:
        """Add it to a weight of shape `[Cout, Cin/g, *K]`."""
        part = target[(slice(None), slice(None), *_taps(self.offset, self.weight.dims[2:]))]
        stored = self.weight.array()
        for out in range(len(part)):  # one channel at a time: no second weight in float64
            part[out] += self.scale[out] * np.asarray(stored[out], np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Diagonal:
    """`s[o]` at every tap of a block, from input channel `o` to output channel `o`."""

    scale: Float64
    offset: Ints
    kernel: Ints

    def add_to(self, target: Float64) -> None:
        """Add it to a weight of shape `[Cout, Cin/g, *K]`: channel `o` is input `o mod (Cin/g)` of its group."""
        outs = np.arange(target.shape[0])
        part = target[(slice(None), slice(None), *_taps(self.offset, self.kernel))]
        part[outs, outs % target.shape[1]] += self.scale.reshape(-1, *([1] * len(self.kernel)))


def _taps(offset: Ints, kernel: Ints) -> tuple[slice, ...]:
    return tuple(slice(start, start + size) for start, size in zip(offset, kernel, strict=True))


def summed(terms: Sequence[Kernel | Diagonal], dims: Ints) -> Float64:
    """The sum of kernels inside one of shape `dims`."""
    target = np.zeros(dims)
    for term in terms:
        term.add_to(target)
    return target


def product(left: Float64, right: Float64) -> Float64:
    """The matrix product of `[A, M]` and `[M, B]`, the same bits on every machine."""
    result = np.zeros((left.shape[0], right.shape[1]))
    for row in range(0, left.shape[0], _ROWS):
        for column in range(0, right.shape[1], _COLUMNS):
            block = result[row : row + _ROWS, column : column + _COLUMNS]
            _add_product(block, left[row : row + _ROWS], right[:, column : column + _COLUMNS])
    return result


def _add_product(target: Float64, left: Float64, right: Float64) -> None:
    factors = np.ascontiguousarray(left.T)[:, :, None]
    term = np.empty(target.shape)
    for middle in range(left.shape[1]):
        np.multiply(factors[middle], right[middle], out=term)
        target += term


def _scaled(operator: Convolution) -> Float64:
    return float64(operator.weight) * operator.scale.reshape(-1, 1, *([1] * len(operator.window.kernel)))


def coarse(weight: Float64, group: int, wanted: int) -> Float64:
    """A grouped weight `[Cout, Cin/group, *k]` as one with fewer groups, `[wanted, Cout/wanted, Cin/wanted, *k]`.

    `wanted` divides `group`; what lies outside of the old groups is 0.
    """
    fine, (outs, ins, *kernel) = group // wanted, weight.shape
    source = weight.reshape(wanted, fine, outs // group, ins, *kernel)
    target = np.zeros((wanted, fine, outs // group, fine, ins, *kernel))
    for block in range(fine):
        target[:, block, :, block] = source[:, block]
    return target.reshape(wanted, outs // wanted, fine * ins, *kernel)


def before_point(first: Convolution, second: Convolution, group: int) -> Float64:
    """`W[o, i, k] = Σ_m W2[o, m]·W1[m, i, k]` for a second Conv with one tap."""
    w1 = coarse(_scaled(first), first.group, group)
    w2 = coarse(_scaled(second), second.group, group)
    blocks = [product(b.reshape(b.shape[0], -1), a.reshape(a.shape[0], -1)) for a, b in zip(w1, w2, strict=True)]
    return np.concatenate(blocks).reshape(second.outs, first.ins // group, *first.window.kernel)


def behind_point(first: Convolution, second: Convolution, group: int) -> Float64:
    """`W[o, i, k] = Σ_m W2[o, m, k]·W1[m, i]` for a first Conv with one tap."""
    w1 = coarse(_scaled(first), first.group, group)
    w2 = np.moveaxis(coarse(_scaled(second), second.group, group), 2, -1)
    blocks = [
        product(b.reshape(-1, b.shape[-1]), a.reshape(a.shape[0], -1)).reshape(*b.shape[:-1], -1)
        for a, b in zip(w1, w2, strict=True)
    ]
    return np.ascontiguousarray(np.moveaxis(np.concatenate(blocks), -1, 1))


def carried_bias(second: Convolution, bias: Float64) -> Float64:
    """`Σ_{m,k} W2[o, m, k]·b[m]` of shape `[Cout]`: what a constant in front of a Conv without padding adds behind it."""
    taps = coarse(_scaled(second), second.group, 1)[0]
    taps = taps.reshape(*taps.shape[:2], -1)
    middle = sum((taps[:, :, tap] for tap in range(taps.shape[2])), np.zeros(taps.shape[:2]))
    return product(middle, bias.reshape(-1, 1))[:, 0]
