"""RMSNormalization of the standard and SimplifiedLayerNormalization of onnxruntime: no mean is subtracted, there is no bias."""

from __future__ import annotations

from normfold.model.dtypes import FLOAT, FLOAT16
from normfold.targets.lowering import X
from normfold.targets.reasons import Cannot
from normfold.targets.site import Site
from normfold.targets.spellings.layer_normalization import require_suffix, suffix_shape


def standard(site: Site) -> str:
    """RMSNormalization (opset 23); a bias is an Add.

    Raises:
        Cannot: the statistics are not over the last dimensions, or centred; an extent of the scale is not known.
    """
    return _build(site, "RMSNormalization")


def simplified(site: Site) -> str:
    """SimplifiedLayerNormalization, which onnxruntime registers in the standard's domain; a bias is an Add.

    Raises:
        Cannot: as for `standard`.
    """
    return _build(site, "SimplifiedLayerNormalization")


def _build(site: Site, operator: str) -> str:
    norm = site.norm
    require_suffix(site, operator)
    if norm.centred:
        raise Cannot("axes", f"{operator} does not subtract the mean, this norm does")
    inner, outer = site.split(norm.axes, takes_bias=False, takes_names=True)
    scale = site.operand("scale", inner.gamma, suffix_shape(site), 1.0)
    value, data_type = _read(site, operator)
    core = site.draft.op(
        operator, value, scale, data_type=data_type, rank=norm.rank, axis=-len(norm.axes), epsilon=site.epsilon()
    )
    return site.apply(core, outer)


def _read(site: Site, operator: str) -> tuple[str, int]:
    """What it normalises and of which type: a float16 x needs no Cast where the kernel takes a float32 scale beside it."""
    is_mixed = site.value is None and site.norm.input_type == FLOAT16 and site.data_type == FLOAT
    if is_mixed and site.support(operator).mixed:
        return X, FLOAT16
    return site.read(), site.data_type
