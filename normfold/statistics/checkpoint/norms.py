"""The normalisations of a checkpoint, and which of them a normalisation of the model is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from normfold.statistics.checkpoint.reading import Array
from normfold.statistics.exact_sums import Float64
from normfold.statistics.sites import MEAN, VAR, StatSite

# Copies may have been rounded to a narrower type on their way.
_CLOSE = 2e-3


@dataclass(frozen=True, slots=True, eq=False)
class Norm:
    """A normalisation of a checkpoint; vectors are `[C]` in float64, `count` is how many batches entered, None if unknown."""

    name: str
    mean: Float64
    var: Float64
    gamma: Float64
    beta: Float64
    count: int | None


def norms(arrays: Mapping[str, Array]) -> tuple[Norm, ...]:
    """Those with running statistics, in the order of the checkpoint."""
    found = []
    for key, array in arrays.items():
        name = key.removesuffix(".running_mean")
        var = arrays.get(f"{name}.running_var")
        if name == key or var is None or array.ndim != 1 or var.shape != array.shape:
            continue
        weight, bias = arrays.get(f"{name}.weight"), arrays.get(f"{name}.bias")
        found.append(
            Norm(
                name, array.astype(np.float64), var.astype(np.float64), _vector(weight, array.size, 1.0),
                _vector(bias, array.size, 0.0), _count(arrays.get(f"{name}.num_batches_tracked")),
            )
        )  # fmt: skip
    return tuple(found)


def _count(tracked: Array | None) -> int | None:
    """How many batches entered, where that is a number."""
    if tracked is None or tracked.size != 1:
        return None
    value = float(tracked.reshape(()))
    return int(value) if 0 <= value < np.inf else None


def _vector(array: Array | None, size: int, default: float) -> Float64:
    if array is None or array.shape != (size,):
        return np.full(size, default)
    return array.astype(np.float64)


def matched(sites: Sequence[StatSite], found: Sequence[Norm]) -> dict[str, Norm]:
    """By key of the site: by name of its parameters, then by equal content, then by content that is close (§3.3).

    Where a checkpoint holds copies of a layer under longer names, the one whose content the model has is taken.
    """
    pairs: dict[str, Norm] = {}
    free = {norm.name: norm for norm in found}
    for by in (named, _same, _alike):
        for site in sites:
            if site.key in pairs or not site.has_statistics:
                continue
            fitting = [norm for norm in free.values() if norm.mean.shape == _mean(site).shape and by(site, norm)]
            chosen = _chosen(site, fitting)
            if chosen is not None and (len(fitting) == 1 or by is not _alike):
                pairs[site.key] = chosen
                if by is not named:  # a layer that is applied twice has one name at two places
                    del free[chosen.name]
        if by is named:
            for norm in pairs.values():
                free.pop(norm.name, None)
    return pairs


def _chosen(site: StatSite, fitting: Sequence[Norm]) -> Norm | None:
    """The only one, or the one that the model is, or has γ and β of, or is called like; None where that does not tell."""
    if len(fitting) == 1:
        return fitting[0]
    same = [norm for norm in fitting if _same(site, norm)]
    if same:
        return same[0]
    for by in (_alike, _called):
        some = [norm for norm in fitting if by(site, norm)]
        if len(some) == 1:
            return some[0]
    return None


def _mean(site: StatSite) -> Float64:
    assert site.mean is not None
    return site.mean


def named(site: StatSite, norm: Norm) -> bool:
    """Whether the names say that they are one; either may have more in front, of a wrapper or a part of a larger model."""
    return any(
        _ends(name, end) or _ends(end, name)
        for name in _names(site)
        for end in (f"{norm.name}.running_mean", f"{norm.name}.running_var")
    )


def _called(site: StatSite, norm: Norm) -> bool:
    """Whether they have one name."""
    return bool(_names(site) & {f"{norm.name}.running_mean", f"{norm.name}.running_var"})


def _names(site: StatSite) -> set[str]:
    return {value.name for value in (site.parameter(MEAN), site.parameter(VAR)) if value is not None}


def _ends(name: str, end: str) -> bool:
    return name == end or name.endswith((f".{end}", f"/{end}"))


def is_copy(norm: Norm, of: Norm) -> bool:
    """Whether one is a copy of the other, under a name that has more in front."""
    return norm is not of and (_ends(norm.name, of.name) or _ends(of.name, norm.name))


def _same(site: StatSite, norm: Norm) -> bool:
    """Equal statistics; γ and β too, so that constant vectors do not match everything."""
    return all(one is not None and np.array_equal(one, other) for one, other in _pairs(site, norm))


def _alike(site: StatSite, norm: Norm) -> bool:
    """Close in everything, or the same γ and β, which no mix-up of statistics touches."""
    affine = _pairs(site, norm)[2:]
    told = not (np.ptp(norm.gamma) == 0 and np.ptp(norm.beta) == 0)
    if told and all(one is not None and np.array_equal(one, other) for one, other in affine):
        return True
    return all(one is not None and close(one, other) for one, other in _pairs(site, norm))


def _pairs(site: StatSite, norm: Norm) -> tuple[tuple[Float64 | None, Float64], ...]:
    return (site.mean, norm.mean), (site.var, norm.var), (site.gamma, norm.gamma), (site.beta, norm.beta)


def close(one: Float64, other: Float64) -> bool:
    """Equal up to rounding to half precision, relative to the largest value."""
    scale = float(np.abs(other).max(initial=0.0)) or 1.0
    with np.errstate(invalid="ignore"):
        return one.shape == other.shape and bool(np.nanmax(np.abs(one - other), initial=0.0) <= _CLOSE * scale)
