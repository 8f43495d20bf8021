"""The shapes on which a norm is confirmed: small numbers for what is not known, less than the truth for what is too large."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from normfold.model.shapes import Dims
from normfold.norm.meaning import Norm
from normfold.norm.rows import Extents

# Beyond this a probe takes most of a second and hundreds of megabytes.
SIZE_LIMIT = 1 << 22

_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53)
_SMALL = 16  # an extent up to this is not worth making smaller

# Of two numbers mean absolute and mean square deviation are the same; a row must be longer than that.
_LEAST_REDUCED = 5

# The shapes that must all be confirmed for a find to be confirmed.
Attempt = tuple[Extents, ...]
# A dimension that stands for itself, or a symbol that several dimensions share.
_Unknown = int | str


class _Geometry(NamedTuple):
    """What the choice of shapes depends on: the same for most norms of a model.

    Args:
        dims, axes, groups, channel: of the norm.
        fixed: dimensions along which gamma or beta vary, with their extent.
        operands_from: the first dimension of the tensors that take the place of gamma and beta; the rank if there are none.
    """

    dims: Dims
    axes: tuple[int, ...]
    groups: int | None
    channel: int | None
    fixed: tuple[tuple[int, int], ...]
    operands_from: int


def attempts(norm: Norm, comfortable: int) -> Sequence[Attempt]:
    """Ways to choose the shapes, best first; one that holds is enough.

    Unknown extents become distinct small primes, twice, so that no two dimensions are confused and none is right by chance;
    the same symbol is the same number. A known extent stays what it is, unless the tensor has more than `comfortable`
    elements. Then the dimensions that are not reduced, and along which no parameter varies, are made small first: nothing
    that follows the normal form depends on how many rows there are. Where that is not enough the reduced dimensions without
    a parameter are made small as well. A graph that insists on its extents, with a Reshape to constants or a number of
    elements to divide by, does not compute the norm on another shape; for its sake the true one comes last.

    Args:
        norm: whose dimensions.
        comfortable: number of elements above which a smaller shape is tried first.

    Returns:
        The true shape with small numbers for what is unknown, behind a smaller one where it is large; nothing where
        both have more than `SIZE_LIMIT` elements.

    Raises:
        ValueError: a parameter contradicts a dimension, or too many dimensions are unknown.
    """
    named = norm.scale is not None or norm.bias is not None
    operands_from = norm.axes[0] if named and norm.axes else norm.rank
    fixed = tuple(sorted(_fixed_by_parameters(norm).items()))
    return _attempts(_Geometry(norm.dims, norm.axes, norm.groups, norm.channel, fixed, operands_from), comfortable)


def _fixed_by_parameters(norm: Norm) -> dict[int, int]:
    """The extent of every dimension along which gamma or beta vary."""
    fixed: dict[int, int] = {}
    for parameter in (norm.gamma, norm.beta):
        for axis, extent in enumerate(() if parameter is None else parameter.shape):
            if extent != 1 and fixed.setdefault(axis, extent) != extent:
                raise ValueError(f"gamma and beta have different extents along dimension {axis}")
    return fixed


@lru_cache(maxsize=256)
def _attempts(of: _Geometry, comfortable: int) -> Sequence[Attempt]:
    true = _attempt(of, ())
    if _size(true) <= comfortable:
        return [true]
    shrinkable = _shrinkable(of)
    smaller = _attempt(of, [axis for axis in shrinkable if axis not in of.axes])
    if _size(smaller) > comfortable:
        smaller = _attempt(of, shrinkable)
    return [attempt for attempt in dict.fromkeys((smaller, true)) if _size(attempt) <= SIZE_LIMIT]


def _size(attempt: Attempt) -> int:
    return max(math.prod(shape) for shape in attempt)


def _shrinkable(of: _Geometry) -> list[int]:
    """Dimensions with a large static extent that nothing but the graph itself depends on."""
    fixed = {axis for axis, _ in of.fixed}
    return [
        axis
        for axis, dim in enumerate(of.dims)
        if isinstance(dim, int)
        and dim > _SMALL
        and axis not in fixed
        and axis != of.channel
        and axis < of.operands_from
    ]


def _attempt(of: _Geometry, shrunk: Sequence[int]) -> Attempt:
    known = _known(of, shrunk)
    keys = [_key(of, axis, shrunk) for axis in range(len(of.dims))]
    unknown = [key for key in dict.fromkeys(keys) if key not in known]
    first = _primes(of, unknown, known, [0] * len(unknown))
    second = _primes(of, unknown, known, first)
    sizes = ({**known, **dict(_sized(of, unknown, primes))} for primes in dict.fromkeys((first, second)))
    return tuple(tuple(size[key] for key in keys) for size in sizes)


def _primes(
    of: _Geometry, unknown: Sequence[_Unknown], known: Mapping[_Unknown, int], others: Sequence[int]
) -> tuple[int, ...]:
    """A prime for every unknown, none of them twice, that of a known extent, or what it is in `others`.

    Raises:
        ValueError: there are too many.
    """
    reduced = {*of.axes, *(of.dims[axis] for axis in of.axes if isinstance(of.dims[axis], str))}
    free = [prime for prime in _PRIMES if prime not in known.values()]
    found: list[int] = []
    for key, other in zip(unknown, others, strict=True):
        least = _LEAST_REDUCED if key in reduced else 0
        prime = next((p for p in free if p >= least and p != other), None)
        if prime is None:
            raise ValueError(f"{len(unknown)} extents are not known")
        free.remove(prime)
        found.append(prime)
    return tuple(found)


def _sized(of: _Geometry, unknown: Sequence[_Unknown], primes: Sequence[int]) -> Iterator[tuple[_Unknown, int]]:
    """A number for every unknown; the channels are a multiple of the groups."""
    channel = None if of.channel is None else _key(of, of.channel, ())
    for key, prime in zip(unknown, primes, strict=True):
        yield key, prime * of.groups if key == channel and of.groups is not None else prime


def _key(of: _Geometry, axis: int, shrunk: Sequence[int]) -> _Unknown:
    dim = of.dims[axis]
    return dim if isinstance(dim, str) and axis not in shrunk else axis


def _known(of: _Geometry, shrunk: Sequence[int]) -> dict[_Unknown, int]:
    known: dict[_Unknown, int] = {}
    for axis, extent in (*enumerate(of.dims), *of.fixed):
        if not isinstance(extent, int) or axis in shrunk:
            continue
        if known.setdefault(_key(of, axis, shrunk), extent) != extent:
            raise ValueError(f"a parameter has extent {extent} along dimension {axis}, which has not")
    return known
