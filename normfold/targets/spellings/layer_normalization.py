"""LayerNormalization: statistics over the last dimensions, scale and bias of exactly their shape."""

from __future__ import annotations

from normfold.targets.reasons import Cannot
from normfold.targets.site import Site


def build(site: Site) -> str:
    """LayerNormalization, with what it has no parameter for behind it.

    Raises:
        Cannot: the statistics are not over the last dimensions, or not centred; an extent of the scale is not known.
    """
    norm = site.norm
    require_suffix(site, "LayerNormalization")
    if not norm.centred:
        raise Cannot("axes", "LayerNormalization subtracts the mean, this norm does not")
    inner, outer = site.split(norm.axes, takes_names=True)
    shape = suffix_shape(site)
    scale = site.operand("scale", inner.gamma, shape, 1.0)
    has_bias = inner.beta is not None or site.support("LayerNormalization").needs_bias
    bias = site.operand("bias", inner.beta, shape, 0.0) if has_bias else ""
    core = site.op("LayerNormalization", site.read(), scale, bias, axis=-len(norm.axes), epsilon=site.epsilon())
    return site.apply(core, outer)


def require_suffix(site: Site, operator: str) -> None:
    """Refuse statistics over other than the last dimensions.

    Raises:
        Cannot: they are.
    """
    if not site.norm.is_suffix or not site.norm.axes:
        raise Cannot("axes", f"{operator} normalises the last dimensions, this norm {list(site.norm.axes)}")


def suffix_shape(site: Site) -> tuple[int, ...]:
    """The shape of a scale; unknown extents do not matter where scale and bias come from the graph.

    Raises:
        Cannot: an extent is not known.
    """
    whole = site.parameters()
    if isinstance(whole.gamma, str) and (isinstance(whole.beta, str) or not site.norm.centred):
        return tuple(0 for _ in site.norm.axes)
    return site.extents(site.norm.axes, "the scale")
