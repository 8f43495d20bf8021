"""GroupNormalization of the standard (opset 21): channels at dimension 1, scale and bias per channel."""

from __future__ import annotations

from typing import Any

from normfold.targets.reasons import Cannot
from normfold.targets.regroup import first_grouped, image
from normfold.targets.site import Site

OPERATOR = "GroupNormalization"


def build(site: Site) -> str:
    """GroupNormalization, between two Reshapes where the kernel does not take the rank of `x`.

    Raises:
        Cannot: the groups are not those of dimension 1; the number of channels is not known.
    """
    norm, support, groups = site.norm, site.support(OPERATOR), group_count(site)
    inner, outer = site.split((1,))
    channels = site.extents((1,), "the scale")[0]
    scale = site.per_channel("scale", inner.gamma, channels, 1.0)
    bias = site.per_channel("bias", inner.beta, channels, 0.0)
    attributes: dict[str, Any] = {"num_groups": groups, "epsilon": site.epsilon()}
    least, most = support.ranks
    if least <= norm.rank <= most:
        return site.apply(site.op(OPERATOR, site.read(), scale, bias, **attributes), outer)
    view = image(site, channels)
    core = site.op(OPERATOR, view.value, scale, bias, rank=view.rank, **attributes)
    return site.apply(view.back(core), outer)


def group_count(site: Site) -> int:
    """The number of groups that dimension 1 is cut into.

    Raises:
        Cannot: another dimension is cut, or the mean is not subtracted.
    """
    channel, groups = first_grouped(site.norm)
    if channel != 1 or groups is None or not site.norm.centred:
        raise Cannot("axes", "these are not centred groups of dimension 1")
    return groups
