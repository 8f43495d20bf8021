"""Whether a fact is a norm of the base, and which (`norm-fusion`, section 2.6).

`(a·x + b·m + c)·(q + t·m² + r·m + s)^(-½) + d` is one if `t = -1` and `b = -a`, or `t = 0` and `b = 0`, with `r = c = 0` and
one number `s ≥ 0`; everything else only looks like one.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from normfold.model import dtypes
from normfold.norm import forms
from normfold.norm.forms import Coefficient, Normal
from normfold.norm.frame import Fact, Frame, wider
from normfold.norm.meaning import Float64, Norm


def norm_of(frame: Frame, fact: Fact) -> tuple[Norm, float] | None:
    """The norm that a fact is, and how far its coefficients were moved to make it one; None if it is none."""
    form = fact.form
    if not isinstance(form, Normal) or fact.partial or fact.view != frame.view or not _is_typed(frame, fact):
        return None
    found = _family(form, frame.close)
    axes = _axes(frame)
    epsilon = _number(form.moment.one)
    if found is None or axes is None or epsilon is None or not 0.0 <= epsilon < np.inf:
        return None
    centred, snap = found
    reduced, groups, channel = axes
    gamma, beta = _parameter(frame, form.x, 1.0), _parameter(frame, form.delta, 0.0)
    if any(p is not None and not np.isfinite(p).all() for p in (gamma, beta)) or forms.is_zero(form.x):
        return None
    kind = frame.facts[id(frame.base)].data_type
    dims = frame.shapes.dims(frame.base)
    assert dims is not None
    norm = Norm(
        centred, dims, reduced, epsilon, gamma, beta, kind, fact.data_type, wider(fact.parameters, 0) or kind, groups, channel
    )  # fmt: skip
    return norm, snap


def _is_typed(frame: Frame, fact: Fact) -> bool:
    """Whether nothing on the way was rounded to less than what goes in or comes out."""
    base = frame.facts[id(frame.base)].data_type
    allowed = max(dtypes.unit_roundoff(base), dtypes.unit_roundoff(fact.data_type))
    return dtypes.unit_roundoff(fact.narrowest) <= allowed


def _family(form: Normal, close: float) -> tuple[bool, float] | None:
    """Centred or not, and the distance to the ideal coefficients."""
    moment = form.moment
    largest = forms.spread(form.x)
    if not forms.is_zero(moment.m) or forms.spread(form.one) > 0.0:
        return None
    if forms.is_zero(moment.mm) and forms.is_zero(form.m):
        return False, 0.0
    distance = max(forms.spread(moment.mm + 1.0), forms.spread(form.x + form.m) / largest if largest else np.inf)
    return (True, distance) if distance <= close else None


def _number(value: Coefficient) -> float | None:
    """A coefficient that is the same everywhere."""
    if isinstance(value, float):
        return value
    return float(value.flat[0]) if (value == value.flat[0]).all() else None


def _axes(frame: Frame) -> tuple[tuple[int, ...], int | None, int | None] | None:
    """The reduced dimensions of the base, and groups and channel where one of them is reduced in part."""
    whole: list[int] = []
    groups = channel = None
    for i, axis in enumerate(frame.view):
        inside = [atom in frame.axes for atom in axis.atoms]
        if not any(inside):
            continue
        if all(inside):
            whole.append(i)
        elif channel is None and inside == sorted(inside):
            channel, groups = i, frame.count(atom for atom in axis.atoms if atom not in frame.axes)
        else:
            return None
    return tuple(whole), groups, channel


def _parameter(frame: Frame, value: Coefficient, neutral: float) -> Float64 | None:
    """A coefficient as a parameter of the rank of the base; None where it is `neutral` everywhere."""
    if isinstance(value, float):
        return None if value == neutral else np.full((1,) * len(frame.view), value)
    if (value == neutral).all():
        return None
    shape: list[int] = []
    broadcast: list[int] = []
    for axis in frame.view:
        varies = any(value.shape[atom] > 1 for atom in axis.atoms)
        sizes = [frame.atoms[atom] if varies else 1 for atom in axis.atoms]
        broadcast += sizes
        shape.append(int(np.prod(sizes)))
    return np.ascontiguousarray(np.broadcast_to(value, broadcast)).reshape(shape)


def fits(norm: Norm) -> bool:
    """Whether gamma and beta vary only along dimensions that an operator has parameters for."""
    varying = {i for p in (norm.gamma, norm.beta) if p is not None for i, size in enumerate(p.shape) if size > 1}
    if not norm.centred and norm.beta is not None:
        return False
    return any(varying <= set(allowed) for allowed in _allowed(norm))


def _allowed(norm: Norm) -> Iterable[tuple[int, ...]]:
    if norm.channel is not None:
        return [(norm.channel,)]
    return [norm.axes, (1,), (norm.rank - 1,)]
