"""SkipLayerNormalization and SkipSimplifiedLayerNormalization: the addition in front of the norm goes into the operator."""

from __future__ import annotations

from normfold.norm.meaning import Residual
from normfold.targets.lowering import MICROSOFT, SUM, Given
from normfold.targets.reasons import Cannot
from normfold.targets.site import Site
from normfold.targets.spellings.layer_normalization import suffix_shape


def centred(site: Site) -> str:
    """SkipLayerNormalization; its fourth output is the sum.

    Raises:
        Cannot: there is no residual, or the norm is not of the last dimension alone with parameters along it.
    """
    return _build(site, "SkipLayerNormalization")


def uncentred(site: Site) -> str:
    """SkipSimplifiedLayerNormalization, which has no beta.

    Raises:
        Cannot: as for `centred`.
    """
    return _build(site, "SkipSimplifiedLayerNormalization")


def _build(site: Site, operator: str) -> str:
    norm, residual = site.norm, _residual(site)
    if norm.axes != (norm.rank - 1,) or norm.centred != (operator == "SkipLayerNormalization"):
        raise Cannot("axes", f"{operator} normalises the last dimension alone, this norm {list(norm.axes)}")
    inner, outer = site.split(norm.axes, takes_bias=norm.centred, takes_names=True)
    shape = suffix_shape(site)
    inputs = [Given(residual.left), Given(residual.right), site.operand("scale", inner.gamma, shape, 1.0)]
    if norm.centred:
        inputs.append(site.operand("bias", inner.beta, shape, 0.0) if inner.beta is not None else "")
    inputs.append("" if residual.bias is None else site.constant("addend", residual.bias.reshape(-1)))
    others = ("", "", SUM) if residual.is_read else ()
    core = site.op(operator, *inputs, domain=MICROSOFT, others=others, epsilon=site.epsilon())
    site.draft.takes_residual = True
    return site.apply(core, outer)


def _residual(site: Site) -> Residual:
    if site.around.residual is None:
        raise Cannot("surroundings", "no addition of two tensors of the norm's own shape stands in front of it")
    if site.data_type != site.norm.input_type:
        raise Cannot("element-type", "the norm computes in a wider type than the addition in front of it")
    return site.around.residual
