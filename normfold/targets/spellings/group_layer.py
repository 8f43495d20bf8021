"""Groups normalised as the rows of a `[..., G, K]` view: LayerNormalization, or SimplifiedLayerNormalization without a mean."""

from __future__ import annotations

import math

import numpy as np

from normfold.norm.meaning import Float64
from normfold.targets.lowering import Given
from normfold.targets.reasons import Cannot
from normfold.targets.regroup import Grouped, grouped, known_size
from normfold.targets.site import Site, require_moderate


def build(site: Site) -> str:
    """Reshape, LayerNormalization with a scale of ones, Reshape, Mul, Add.

    Raises:
        Cannot: what is normalised together does not lie together; the number of its elements is not known.
    """
    view = grouped(site)
    ones = site.constant("ones", np.ones(known_size(view)))
    return site.apply(view.back(_normalised(site, view, ones, "")), site.parameters())


def wide(site: Site) -> str:
    """The same with the affine inside, as a scale and a bias of shape `[1, G, K]`: a form that onnxruntime's CPU kernel takes.

    Raises:
        Cannot: as for `build`; or the affine varies along another dimension than the channel.
    """
    if not site.norm.centred:
        raise Cannot("axes", "the norm does not subtract the mean")
    view = grouped(site)
    size = known_size(view)
    inner, outer = site.split((view.channel,))
    shape = (*(1 for _ in range(view.rank - 2)), view.groups, size)
    require_moderate(shape, "the scale")
    scale = site.constant("scale", _spread(inner.gamma, shape, 1.0))
    bias = "" if inner.beta is None else site.constant("bias", _spread(inner.beta, shape, 0.0))
    return site.apply(view.back(_normalised(site, view, scale, bias)), outer)


def _normalised(site: Site, view: Grouped, scale: str, bias: str) -> str:
    operator = "LayerNormalization" if site.norm.centred else "SimplifiedLayerNormalization"
    if not bias and site.norm.centred and site.support(operator).needs_bias:
        bias = site.constant("zeros", np.zeros(known_size(view)))
    return site.op(operator, view.value, scale, bias, rank=view.rank, axis=-1, epsilon=site.epsilon())


def _spread(parameter: Float64 | Given | None, shape: tuple[int, ...], neutral: float) -> Float64:
    """A parameter per channel, repeated for every element of its channel."""
    assert not isinstance(parameter, Given)
    if parameter is None or parameter.size == 1:
        return np.full(shape, neutral if parameter is None else parameter.item())
    flat = parameter.reshape(-1)
    return np.repeat(flat, math.prod(shape) // flat.size).reshape(shape)
