"""A norm in elementary operators: for what no single operator of the target can express."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from normfold.model.dtypes import BFLOAT16, FLOAT16, stored, type_name
from normfold.norm.meaning import Norm
from normfold.targets.reasons import Cannot
from normfold.targets.regroup import Grouped, first_grouped, grouped
from normfold.targets.site import Site

_AXES_ARE_AN_INPUT = 18


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
        core = _normalised(site, site.read(), norm.rank, norm.axes, reciprocal)
        return site.apply(core, site.parameters())
    view, axes = _split_channel(site, norm)
    core = view.back(_normalised(site, view.value, view.rank, axes, reciprocal))
    return site.apply(core, site.parameters())


def _normalised(site: Site, value: str, rank: int, axes: tuple[int, ...], reciprocal: bool) -> str:
    deviation = site.op("Sub", value, _mean(site, value, rank, axes), rank=rank) if site.norm.centred else value
    square = site.op("Pow", deviation, site.constant("two", np.array(2.0)), rank=rank)
    epsilon = _epsilon(site)
    root = site.op("Sqrt", site.op("Add", _mean(site, square, rank, axes), epsilon, rank=rank), rank=rank)
    if reciprocal:
        return site.op("Mul", deviation, site.op("Reciprocal", root, rank=rank), rank=rank)
    return site.op("Div", deviation, root, rank=rank)


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


def _split_channel(site: Site, norm: Norm) -> tuple[Grouped, tuple[int, ...]]:
    """`x` with the channel dimension cut in two, and the dimensions of that view that are reduced."""
    channel, groups = norm.channel, norm.groups
    assert channel is not None
    assert groups is not None
    try:
        first_grouped(norm)
    except Cannot:
        pass
    else:
        view = grouped(site)
        return view, (view.rank - 1,)
    size = site.extents((channel,), "the Reshape")[0] // groups
    behind = [dim if isinstance(dim, int) else -1 for dim in norm.dims[channel + 1 :]]
    if behind.count(-1) > 1:
        raise Cannot(
            "static-shape", "more than one extent behind the channels is not known, and the Reshape needs them"
        )
    value = site.read()
    shape = site.draft.integers("shape", [0] * channel + [groups, size, *behind])
    cut = site.op("Reshape", value, shape)
    axes = tuple(sorted((channel + 1, *(axis + (axis > channel) for axis in norm.axes))))
    return Grouped(cut, norm.rank + 1, groups, size, channel, replace(site, value=value)), axes
