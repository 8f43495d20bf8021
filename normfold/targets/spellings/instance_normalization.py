"""InstanceNormalization, and GroupNorm written with it: in a `[N, G, K]` view a group is a channel."""

from __future__ import annotations

import numpy as np

from normfold.norm.meaning import Float64
from normfold.targets.lowering import Given
from normfold.targets.reasons import Cannot
from normfold.targets.regroup import grouped
from normfold.targets.site import Affine, Site

OPERATOR = "InstanceNormalization"


def build(site: Site) -> str:
    """InstanceNormalization of `[N, C, *spatial]`.

    Raises:
        Cannot: the statistics are not over all spatial dimensions; the number of channels is not known.
    """
    norm = site.norm
    if not norm.is_spatial or norm.groups is not None or not norm.centred:
        raise Cannot("axes", f"{OPERATOR} normalises all dimensions behind the channels, this norm {list(norm.axes)}")
    inner, outer = site.split((1,))
    channels = site.extents((1,), "the scale")[0]
    parameters = [
        site.per_channel("scale", inner.gamma, channels, 1.0),
        site.per_channel("bias", inner.beta, channels, 0.0),
    ]
    return site.apply(site.op(OPERATOR, site.read(), *parameters, epsilon=site.epsilon()), outer)


def idiom(site: Site) -> str:
    """Reshape, InstanceNormalization, Reshape, Mul, Add; parameters that are constant in each group go into the operator.

    Raises:
        Cannot: the groups are not those of dimension 1, or their number is not known.
    """
    core, outer = _core(site)
    return site.apply(core, outer)


def idiom_with_batch_norm(site: Site) -> str:
    """The same with the affine as one BatchNormalization of mean 0, variance 1 and epsilon 0.

    Raises:
        Cannot: as for `idiom`; or the affine varies along another dimension than the channel.
    """
    core, outer = _core(site)
    if outer.gamma is None and outer.beta is None:
        return core
    channels = site.extents((1,), "the scale")[0]
    if not all(_is_per_channel(p) for p in (outer.gamma, outer.beta)):
        raise Cannot("parameters", "scale or bias vary along another dimension than the channel")
    scale = site.per_channel("scale", outer.gamma, channels, 1.0)
    bias = site.per_channel("bias", outer.beta, channels, 0.0)
    mean, variance = site.constant("mean", np.zeros(channels)), site.constant("variance", np.ones(channels))
    return site.op("BatchNormalization", core, scale, bias, mean, variance, epsilon=0.0)


def _core(site: Site) -> tuple[str, Affine]:
    """The normalised tensor in the shape of `x`, and what of the affine is left."""
    if not site.norm.centred:
        raise Cannot("axes", f"{OPERATOR} subtracts the mean, this norm does not")
    view = grouped(site)
    if view.rank != 3:
        raise Cannot("axes", f"{OPERATOR} takes groups of dimension 1, these are of dimension {view.channel}")
    inner, outer = _of_groups(site, view.groups)
    parameters = [
        site.per_channel("scale", inner.gamma, view.groups, 1.0),
        site.per_channel("bias", inner.beta, view.groups, 0.0),
    ]
    core = site.op(OPERATOR, view.value, *parameters, rank=view.rank, epsilon=site.epsilon())
    return view.back(core), outer


def _of_groups(site: Site, groups: int) -> tuple[Affine, Affine]:
    """Parameters of the groups, `[G]`, for the operator, and what it cannot take."""
    whole = site.parameters()
    gamma, beta = (_per_group(p, groups) for p in (whole.gamma, whole.beta))
    if whole.gamma is not None and gamma is None:
        return Affine(), whole
    return Affine(gamma, beta), Affine(None, whole.beta if beta is None else None)


def _per_group(parameter: Float64 | Given | None, groups: int) -> Float64 | None:
    """The values of the groups where a parameter is constant in each of them."""
    if parameter is None or isinstance(parameter, Given) or not _is_per_channel(parameter):
        return None
    flat = parameter.reshape(-1)
    if flat.size == 1:
        return np.full(groups, flat[0])
    rows = flat.reshape(groups, -1)
    return rows[:, 0] if bool(np.all(rows == rows[:, :1])) else None


def _is_per_channel(parameter: Float64 | Given | None) -> bool:
    if isinstance(parameter, Given):
        return False
    return parameter is None or all(extent == 1 or axis == 1 for axis, extent in enumerate(parameter.shape))
