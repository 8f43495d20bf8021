"""Absorbers among the norms: each ends in `scale·n + B`, so `scale' = s·scale` and `B' = s·B + t`.

They differ in the shape of that pair: one value per channel (InstanceNormalization, BatchNormalization,
GroupNormalization from opset 21), one per group (GroupNormalization-18), one per normalised element
(LayerNormalization), or no B at all (RMSNormalization).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from normfold.affine.algebra import Affine, uniform
from normfold.affine.change import (
    Absorber,
    Change,
    NewParameter,
    closed,
    data_only,
    in_front,
    into_weights,
    parameter_name,
    require_affordable,
    require_range,
    scaled,
    zeros,
)
from normfold.affine.draft import INPUT, Absorption, Draft
from normfold.affine.invariance import accept_in_front, front_epsilon, front_sign
from normfold.affine.reasons import Refused
from normfold.affine.recognise import collected, read
from normfold.model import attributes
from normfold.model.constants import float64
from normfold.model.graph import Node
from normfold.model.tensors import Float64

_CHANNEL_ATTRIBUTES = {
    "InstanceNormalization": ("epsilon", "consumed_inputs"),
    "GroupNormalization": ("epsilon", "num_groups", "stash_type"),
}
_GROUP_NORM_PER_CHANNEL = 21
_BATCH_NORM_ROLES = {1: "scale", 2: "bias", 3: "mean"}


# --- one value per channel -------------------------------------------------------------------------------------------


def _accept_per_channel(draft: Draft, node: Node, affine: Affine) -> Absorption:
    if node.op_type == "BatchNormalization":
        read(draft, node)  # refuses training mode, computed and broken statistics
    else:
        closed(node, _CHANNEL_ATTRIBUTES[node.op_type])
    gamma = draft.parameter(node, 1)
    if len(gamma.dims) != 1 or draft.parameter(node, 2).dims != gamma.dims:
        raise Refused("ill-formed", f"scale and bias of {node.label!r} are no vectors of one length", node.label)
    if _by_group(node):
        _per_group(affine, node, gamma.dims[0])
    else:
        affine.vectors(min(1, affine.rank - 1), gamma.dims[0])
    require_range(affine, gamma.data_type, node)
    return into_weights(node, affine)


def _by_group(node: Node) -> bool:
    return node.op_type == "GroupNormalization" and node.scope.version < _GROUP_NORM_PER_CHANNEL


def _per_group(affine: Affine, node: Node, groups: int) -> tuple[Float64, Float64]:
    """GroupNormalization-18 has one scale per group: scale and shift must agree inside each."""
    scale, shift = affine.vectors(1, affine.shape[1])
    if scale.size == 1:
        return np.repeat(scale, groups), np.repeat(shift, groups)
    if scale.size % groups:
        raise Refused("ill-formed", f"{groups} groups do not divide {scale.size} channels", node.label)
    pairs = [part.reshape(groups, -1) for part in (scale, shift)]
    if any((part != part[:, :1]).any() for part in pairs):
        raise Refused(
            "not-per-channel", f"GroupNormalization {node.label!r} (opset 18) has one scale per group", node.label
        )
    return pairs[0][:, 0].copy(), pairs[1][:, 0].copy()


def _build_per_channel(draft: Draft, node: Node, affine: Affine) -> Change:
    epsilon, sign = front_epsilon(draft, node), front_sign(draft, node)
    if affine.is_identity and sign > 0:
        return Change(node, attributes=epsilon)
    gamma, beta = draft.parameter(node, 1), draft.parameter(node, 2)
    if _by_group(node):
        scale, shift = _per_group(affine, node, gamma.dims[0])
    else:
        scale, shift = affine.vectors(min(1, affine.rank - 1), gamma.dims[0])
    inputs: dict[int, NewParameter] = {}
    if affine.scales or sign < 0:
        name = parameter_name(node, 1, "scale")
        inputs[1] = NewParameter(gamma, gamma.data_type, gamma.dims, name, scale * sign)
    if not affine.is_identity:
        inputs[2] = NewParameter(beta, beta.data_type, beta.dims, parameter_name(node, 2, "bias"), scale, shift)
    return Change(node, inputs, attributes=epsilon)


# --- BatchNormalization, which is an affine itself --------------------------------------------------------------------


def _accept_batch_norm_forward(draft: Draft, node: Node, arriving: Mapping[int, Affine]) -> tuple[Absorption, ...]:
    affine = data_only(node, arriving)
    read(draft, node)
    gamma = draft.parameter(node, 1)
    affine.vectors(min(1, affine.rank - 1), gamma.dims[0])
    require_range(affine, gamma.data_type, node)
    return in_front(node, affine, into_weights(node, uniform(1.0, 0.0, affine.rank)))


def _build_batch_norm(draft: Draft, node: Node, affine: Affine) -> Change:
    """Scale, bias and mean that make the stored variance say what the collected affines say."""
    if draft.pending(node, INPUT) is None:
        return _build_per_channel(draft, node, affine)
    sources = [draft.parameter(node, slot) for slot in (1, 2, 3, 4)]
    gamma, beta, mean, var = (float64(source) for source in sources)
    parameters = collected(draft, node, min(1, affine.rank - 1), (gamma, beta, mean, var))
    inputs: dict[int, NewParameter] = {}
    for slot, (factor, offset) in enumerate(parameters, 1):
        if (factor != 1).any() or offset.any():
            old, name = sources[slot - 1], parameter_name(node, slot, _BATCH_NORM_ROLES[slot])
            inputs[slot] = NewParameter(old, old.data_type, old.dims, name, factor, offset)
    return Change(node, inputs)


# --- one value per normalised element --------------------------------------------------------------------------------


def _accept_layer_norm(draft: Draft, node: Node, affine: Affine) -> Absorption:
    closed(node, ("axis", "epsilon", "stash_type"))
    if node.op_type == "RMSNormalization" and affine.shifts:
        raise Refused("shift-blocked", f"RMSNormalization {node.label!r} has no bias", node.label)
    gamma = draft.parameter(node, 1)
    dims = _normalised_dims(draft, node, affine)
    _inside(affine, dims, node)
    for slot in (1, 2):
        if slot == 1 or node.input(slot) is not None:
            _require_fit(draft.parameter(node, slot).dims, dims, node)
    require_range(affine, gamma.data_type, node)
    require_affordable(draft, node, 1, gamma)
    return into_weights(node, affine)


def _normalised_dims(draft: Draft, node: Node, affine: Affine) -> tuple[int, ...]:
    """`X.shape[axis:]`, which scale and bias have, all of it known."""
    data = node.input(0)
    dims = None if data is None else draft.shapes.dims(data)
    axis = int(attributes.get(node, "axis", -1))
    if dims is None:
        raise Refused("shape-unknown", f"the shape in front of {node.label!r} is not known", node.label)
    tail = dims[axis % len(dims) :]
    gamma = draft.parameter(node, 1).dims
    # One normalised axis takes its size from the scale itself, whatever the data declares.
    if len(tail) == 1 and len(gamma) == 1:
        return gamma
    if not all(isinstance(dim, int) for dim in tail):
        raise Refused("shape-unknown", f"the normalised shape of {node.label!r} is not known", node.label)
    return tuple(int(dim) for dim in tail if isinstance(dim, int))


def _require_fit(parameter: tuple[int, ...], dims: tuple[int, ...], node: Node) -> None:
    padded = (1,) * (len(dims) - len(parameter)) + parameter
    if len(padded) != len(dims) or any(size not in (1, own) for size, own in zip(padded, dims, strict=True)):
        raise Refused(
            "ill-formed", f"a parameter of {node.label!r} has shape {list(parameter)}, wanted {list(dims)}", node.label
        )


def _inside(affine: Affine, dims: tuple[int, ...], node: Node) -> tuple[Float64, Float64]:
    """Scale and shift broadcast to the normalised shape."""
    lead = affine.rank - len(dims)
    for axis in affine.varying:
        if axis < lead or affine.shape[axis] != dims[axis - lead]:
            raise Refused(
                "not-per-channel", f"it varies along axis {axis}, outside of what {node.label!r} scales", node.label
            )
    pair = [part.reshape(part.shape[lead:]) for part in (affine.scale, affine.shift)]
    return np.broadcast_to(pair[0], dims), np.broadcast_to(pair[1], dims)


def _build_layer_norm(draft: Draft, node: Node, affine: Affine) -> Change:
    epsilon, sign = front_epsilon(draft, node), front_sign(draft, node)
    if affine.is_identity and sign > 0:
        return Change(node, attributes=epsilon)
    gamma = draft.parameter(node, 1)
    if affine.is_identity:  # a sign alone needs no shape but that of the scale
        return Change(node, {1: scaled(gamma, np.asarray(sign), parameter_name(node, 1, "scale"))}, epsilon)
    dims = _normalised_dims(draft, node, affine)
    scale, shift = _inside(affine, dims, node)
    inputs: dict[int, NewParameter] = {}
    if affine.scales or sign < 0:
        inputs[1] = NewParameter(gamma, gamma.data_type, dims, parameter_name(node, 1, "scale"), scale * sign)
    if affine.shifts or (node.input(2) is not None and affine.scales):
        beta = draft.parameter(node, 2) if node.input(2) is not None else zeros(dims, gamma.data_type)
        inputs[2] = NewParameter(beta, beta.data_type, dims, parameter_name(node, 2, "bias"), scale, shift)
    return Change(node, inputs, attributes=epsilon)


_PER_CHANNEL = Absorber(_accept_per_channel, _build_per_channel, accept_in_front)
_PER_ELEMENT = Absorber(_accept_layer_norm, _build_layer_norm, accept_in_front)
NORMALISERS: dict[str, Absorber] = {
    "BatchNormalization": Absorber(_accept_per_channel, _build_batch_norm, _accept_batch_norm_forward),
    "InstanceNormalization": _PER_CHANNEL,
    "GroupNormalization": _PER_CHANNEL,
    "LayerNormalization": _PER_ELEMENT,
    "RMSNormalization": _PER_ELEMENT,
}
