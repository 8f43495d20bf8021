"""A norm in elementary operators: for what no single operator of the target can express."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from normfold.model.dtypes import BFLOAT16, FLOAT16, largest, stored, type_name
from normfold.norm.meaning import Float64, Norm
from normfold.targets.reasons import Cannot
from normfold.targets.regroup import Grouped, first_grouped, grouped
from normfold.targets.site import Affine, Site

_AXES_ARE_AN_INPUT = 18
# Of the largest number: what is left for the roundings in between.
_SURELY_FINITE = 2.0**-8


def division(site: Site) -> str:
    """Sub, Pow, ReduceMean, Add, Sqrt, Div, in float32 at least: the square of a float16 overflows beyond 255.

    Raises:
        Cannot: the type is a narrow one; epsilon is lost in it; the groups cannot be written as a Reshape.
    """
    return _build(site, reciprocal=False)


def reciprocal(site: Site) -> str:
    """The same with Reciprocal and Mul instead of Div.

    Raises:
        Cannot: as for `division`.
    """
    return _build(site, reciprocal=True)


def _build(site: Site, *, reciprocal: bool) -> str:
    if site.data_type in (FLOAT16, BFLOAT16):
        raise Cannot("element-type", "the square of a deviation needs more than 16 bits")
    norm = site.norm
    if norm.groups is None:
        view = _View(site.read(), norm.rank, norm.axes, norm.gamma)
        core, rest = _normalised(site, view, reciprocal)
        return site.apply(core, rest)
    grouped, view = _split_channel(site, norm)
    core, rest = _normalised(site, view, reciprocal)
    return site.apply(grouped.back(core), rest)


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """What is normalised: a tensor, its rank, what is reduced, and gamma beside it if it has a shape there."""

    value: str
    rank: int
    axes: tuple[int, ...]
    gamma: Float64 | None


def _normalised(site: Site, view: _View, reciprocal: bool) -> tuple[str, Affine]:
    """The deviation over the root of the variance, and what is still to be applied to that."""
    rank, parameters = view.rank, site.parameters()
    deviation = view.value
    if site.norm.centred:
        deviation = site.op("Sub", view.value, _mean(site, view.value, rank, view.axes), rank=rank)
    square = site.op("Pow", deviation, site.constant("two", np.array(2.0)), rank=rank)
    epsilon = _epsilon(site)
    root = site.op("Sqrt", site.op("Add", _mean(site, square, rank, view.axes), epsilon, rank=rank), rank=rank)
    if view.gamma is not None and _goes_into_root(site, view.gamma, view.axes):
        factor = _divided(site, site.factor("scale", view.gamma), root, rank, reciprocal)
        return site.op("Mul", deviation, factor, rank=rank), replace(parameters, gamma=None)
    return _divided(site, deviation, root, rank, reciprocal), parameters


def _divided(site: Site, value: str, root: str, rank: int, reciprocal: bool) -> str:
    if reciprocal:
        return site.op("Mul", value, site.op("Reciprocal", root, rank=rank), rank=rank)
    return site.op("Div", value, root, rank=rank)


def _goes_into_root(site: Site, gamma: Float64, axes: tuple[int, ...]) -> bool:
    """Whether gamma over the root is smaller than `x`, which saves one pass over it, and surely finite."""
    if all(gamma.shape[axis] > 1 for axis in axes) or site.norm.epsilon <= 0.0:
        return False
    return float(np.abs(gamma).max()) / math.sqrt(site.norm.epsilon) < _SURELY_FINITE * largest(site.data_type)


def _epsilon(site: Site) -> str:
    value = np.array(site.norm.epsilon)
    if value > 0.0 and stored(value, site.data_type) == 0.0:
        raise Cannot("epsilon", f"epsilon = {site.norm.epsilon:g} is 0 in {type_name(site.data_type)}")
    return site.constant("epsilon", value)


def _mean(site: Site, value: str, rank: int, axes: tuple[int, ...]) -> str:
    counted = [axis - rank for axis in axes]
    if site.draft.opset < _AXES_ARE_AN_INPUT:
        return site.op("ReduceMean", value, rank=rank, axes=counted, keepdims=1)
    return site.op("ReduceMean", value, site.draft.integers("axes", counted), rank=rank, keepdims=1)


def _split_channel(site: Site, norm: Norm) -> tuple[Grouped, _View]:
    """`x` with the channel dimension cut in two, as it is read and as it is normalised."""
    channel, groups = norm.channel, norm.groups
    assert channel is not None
    assert groups is not None
    try:
        first_grouped(norm)
    except Cannot:
        pass
    else:
        together = grouped(site)
        return together, _View(together.value, together.rank, (together.rank - 1,), None)
    size = site.extents((channel,), "the Reshape")[0] // groups
    behind = [dim if isinstance(dim, int) else -1 for dim in norm.dims[channel + 1 :]]
    if behind.count(-1) > 1:
        raise Cannot(
            "static-shape", "more than one extent behind the channels is not known, and the Reshape needs them"
        )
    value = site.read()
    shape = site.draft.integers("shape", [0] * channel + [groups, size, *behind])
    cut = Grouped(site.op("Reshape", value, shape), norm.rank + 1, groups, size, channel, replace(site, value=value))
    axes = tuple(sorted((channel + 1, *(axis + (axis > channel) for axis in norm.axes))))
    return cut, _View(cut.value, cut.rank, axes, _cut(norm.gamma, channel, groups, size))


def _cut(gamma: Float64 | None, channel: int, groups: int, size: int) -> Float64 | None:
    """Gamma with the channel dimension cut in two, as `x` is."""
    if gamma is None:
        return None
    pair = (groups, size) if gamma.shape[channel] > 1 else (1, 1)
    return gamma.reshape(*gamma.shape[:channel], *pair, *gamma.shape[channel + 1 :])
