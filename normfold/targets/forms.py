"""A norm as targets look at it: the form that it has, with every extent and every freedom of its parameters used."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from normfold.model.dtypes import stored
from normfold.norm.meaning import Float64, Norm
from normfold.targets.facts import Form


def canonical(norm: Norm) -> Norm:
    """The same function: extents that parameters prove, parameters no larger than they vary, no groups that are none.

    A group per channel is no group, one group is another reduced dimension, ones and zeros are no parameters.
    """
    norm = replace(norm, dims=_proven(norm))
    norm = replace(norm, gamma=_compact(norm.gamma, 1.0), beta=_compact(norm.beta, 0.0))
    if norm.groups is None or norm.channel is None:
        return norm
    if norm.groups == 1:
        return replace(norm, axes=tuple(sorted((*norm.axes, norm.channel))), groups=None, channel=None)
    if norm.groups == norm.dims[norm.channel] and norm.axes:
        return replace(norm, groups=None, channel=None)
    return norm


def rounded(norm: Norm, data_type: int) -> Norm:
    """A canonical norm with the parameters as they are stored in a type; one that rounds to nothing is none.

    An exporter's 1/N is not the reciprocal of N, and leaves a gamma of 0.99999997: written out it would be a factor of 1.
    """
    gamma, beta = (None if p is None else stored(p, data_type) for p in (norm.gamma, norm.beta))
    return replace(norm, gamma=_compact(gamma, 1.0), beta=_compact(beta, 0.0))


def forms(norm: Norm) -> tuple[Form, ...]:
    """The forms of a canonical norm, the most natural first: two where the axes say less than the parameters could."""
    if norm.groups is not None:
        return (_grouped(norm),)
    if not norm.centred:
        return (Form.RMS if norm.is_suffix else Form.OTHER_RMS,)
    if norm.is_suffix and (norm.scale is not None or norm.bias is not None):
        return (Form.LAYER,)
    varying = varying_axes(norm)
    if norm.rank > 2 and norm.axes == tuple(range(1, norm.rank)) and len(varying) <= 1:
        return (Form.WHOLE,)
    if norm.is_spatial and varying <= {1}:
        # the last dimension alone and no parameters: a layer of a sequence, which the axes cannot tell from a channel's
        return (Form.INSTANCE,) if norm.rank > 3 or varying else (Form.LAYER, Form.INSTANCE)
    if norm.is_suffix:
        return (Form.LAYER,)
    return (Form.INSTANCE_LAST if norm.rank > 3 and norm.axes == tuple(range(1, norm.rank - 1)) else Form.OTHER,)


def varying_axes(norm: Norm) -> set[int]:
    """The dimensions along which gamma or beta vary."""
    return {a for p in (norm.gamma, norm.beta) if p is not None for a, extent in enumerate(p.shape) if extent > 1}


def permuted(norm: Norm, order: tuple[int, ...]) -> Norm:
    """The norm of `Transpose(x, perm=order)`."""
    place = {old: new for new, old in enumerate(order)}

    def turned(parameter: Float64 | None) -> Float64 | None:
        return None if parameter is None else parameter.transpose(order)

    return replace(
        norm,
        dims=tuple(norm.dims[axis] for axis in order),
        axes=tuple(sorted(place[axis] for axis in norm.axes)),
        channel=None if norm.channel is None else place[norm.channel],
        gamma=turned(norm.gamma),
        beta=turned(norm.beta),
    )


def _grouped(norm: Norm) -> Form:
    channel = norm.channel
    assert channel is not None
    if norm.axes == tuple(range(channel + 1, norm.rank)):
        return Form.GROUP if norm.centred else Form.GROUP_RMS
    is_last = norm.centred and channel == norm.rank - 1 and norm.axes == tuple(range(1, norm.rank - 1))
    return Form.GROUP_LAST if is_last else Form.OTHER_GROUP


def _proven(norm: Norm) -> tuple[int | str | None, ...]:
    """The dimensions, with those that only a parameter knows: no parameter enlarges `x`."""
    parameters = [p for p in (norm.gamma, norm.beta) if p is not None]
    dims = []
    for axis, dim in enumerate(norm.dims):
        extents = {p.shape[axis] for p in parameters} - {1}
        dims.append(extents.pop() if extents and not isinstance(dim, int) else dim)
    return tuple(dims)


def _compact(parameter: Float64 | None, neutral: float) -> Float64 | None:
    """The parameter with extent 1 wherever it does not vary; None where it does nothing."""
    if parameter is None or bool(np.all(parameter == neutral)):
        return None
    for axis, extent in enumerate(parameter.shape):
        if extent > 1:
            first = parameter.take([0], axis)
            if bool(np.all(parameter == first)):
                parameter = first
    return parameter
