"""Norms that are one operator, with the statistics taken in float64 and in two passes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from normfold.model import attributes
from normfold.model.constants import Constants
from normfold.model.graph import Node
from normfold.norm.evaluate.call import Array, Call, Operator, Unknown
from normfold.norm.meaning import Float64
from normfold.norm.rows import mean_over

# MeanVarianceNormalization has no epsilon; the function of the standard adds 1e-9 to the standard deviation, kernels add
# nothing. This stands for both, and differs from either by less than 1e-4 once the deviation exceeds 1e-5.
MEAN_VARIANCE_EPSILON = 1e-18

_GROUP_NORM, _GROUP_NORM_PER_CHANNEL = 18, 21
_MEAN_VARIANCE_BY_AXES = 9
_TRAINING_BY_ATTRIBUTE, _TRAINING_BY_OUTPUTS = 14, 7


class _Normal(NamedTuple):
    values: Float64
    mean: Float64
    inverse: Float64


def _standardised(x: Float64, axes: Sequence[int], epsilon: float, *, centred: bool = True) -> _Normal:
    mean = mean_over(x, axes) if centred else np.zeros([1] * x.ndim)
    deviation = x - mean if centred else x
    inverse = 1.0 / np.sqrt(mean_over(deviation * deviation, axes) + epsilon)
    return _Normal(deviation * inverse, mean, inverse)


def _epsilon(call: Call, default: float = 1e-5) -> float:
    return call.float_attribute("epsilon", default)


def _affine(call: Call, normal: Float64, scale: Array | None, shift: Array | None) -> Float64:
    """`normal · scale + shift`, which must not enlarge it."""
    y = normal if scale is None else normal * scale
    y = y if shift is None else y + shift
    if y.shape != normal.shape:
        raise Unknown(f"scale or bias do not fit the input of {call.node.op_type} {call.node.label!r}")
    return y


def _trailing(call: Call, x: Float64) -> range:
    axis = call.int_attribute("axis", -1)
    if not -x.ndim <= axis < x.ndim:
        raise Unknown(f"{call.node.op_type} {call.node.label!r} has axis {axis} of {x.ndim}")
    return range(axis % x.ndim, x.ndim)


def _layer_norm(call: Call) -> tuple[Array, ...]:
    x = call.real()
    normal = _standardised(x, _trailing(call, x), _epsilon(call))
    return _affine(call, normal.values, call.operand(1), call.optional(2)), normal.mean, normal.inverse


def _rms_norm(call: Call) -> tuple[Array, ...]:
    x = call.real()
    normal = _standardised(x, _trailing(call, x), _epsilon(call), centred=False)
    return _affine(call, normal.values, call.operand(1), None), normal.inverse


def _total(call: Call, *added: Array | None) -> Float64:
    """Input 0 and what is added to it. Where the sum itself is given it stands in the place of input 0."""
    total = call.real()
    for part in added:
        if part is not None:
            total = total + part
    if total.shape != call.real().shape:
        raise Unknown(f"what {call.node.op_type} {call.node.label!r} adds does not fit its input")
    return total


def _skip_layer_norm(call: Call) -> tuple[Array | None, ...]:
    total = _total(call, call.optional(1), call.optional(4))
    normal = _standardised(total, [total.ndim - 1], _epsilon(call, 1e-12))
    y = _affine(call, normal.values, call.operand(2), call.optional(3))
    return y, normal.mean, normal.inverse, total


def _skip_rms_norm(call: Call) -> tuple[Array | None, ...]:
    total = _total(call, call.optional(1), call.optional(3))
    normal = _standardised(total, [total.ndim - 1], _epsilon(call, 1e-12), centred=False)
    return _affine(call, normal.values, call.operand(2), None), None, normal.inverse, total


def _column(call: Call, slot: int, size: int, rank: int, channel: int = 1) -> Float64:
    """A vector of `size` as it broadcasts along the channels of a tensor of that rank."""
    values = call.real(slot)
    if values.shape != (size,):
        raise Unknown(f"input {slot} of {call.node.op_type} {call.node.label!r} is no vector of {size}")
    shape = [1] * rank
    shape[channel] = size
    return values.reshape(shape)


def _instance_norm(call: Call) -> Array:
    x = call.real()
    if x.ndim < 3:
        raise Unknown(f"InstanceNormalization {call.node.label!r} of rank {x.ndim}")
    normal = _standardised(x, range(2, x.ndim), _epsilon(call))
    scale, shift = (_column(call, slot, x.shape[1], x.ndim) for slot in (1, 2))
    return _affine(call, normal.values, scale, shift)


def _group_norm(call: Call) -> Array:
    x = call.real()
    if call.version < _GROUP_NORM or "num_groups" not in call.node.attributes:
        raise Unknown(f"GroupNormalization {call.node.label!r} of opset {call.version}")
    groups = call.int_attribute("num_groups", 1)
    per_channel = call.version >= _GROUP_NORM_PER_CHANNEL
    normal = _grouped(call, x, groups, 1)
    size = x.shape[1] if per_channel else groups
    scale, shift = (_column(call, slot, size, x.ndim) for slot in (1, 2))
    if not per_channel:
        scale, shift = (np.repeat(part, x.shape[1] // groups, axis=1) for part in (scale, shift))
    return _affine(call, normal, scale, shift)


def _grouped(call: Call, x: Float64, groups: int, channel: int) -> Float64:
    """Every group of contiguous channels of every sample with mean 0 and variance 1."""
    if x.ndim < 2 or groups < 1 or x.shape[channel] % groups:
        raise Unknown(f"{call.node.op_type} {call.node.label!r} has {groups} groups in {list(x.shape)}")
    split = x.reshape(*x.shape[:channel], groups, -1, *x.shape[channel + 1 :])
    axes = [axis for axis in range(1, split.ndim) if axis != channel]
    return _standardised(split, axes, _epsilon(call)).values.reshape(x.shape)


def _contrib_group_norm(call: Call) -> Array:
    return _contrib(call, call.real())


def _skip_group_norm(call: Call) -> tuple[Array, ...]:
    x, skip = call.real(), call.optional(3)
    if skip is not None and skip.ndim == 2:
        skip = skip.reshape(skip.shape[0], *[1] * (x.ndim - 2), skip.shape[1])
    if not call.int_attribute("channels_last", 1):
        raise Unknown(f"SkipGroupNorm {call.node.label!r} is not channels-last")
    total = _total(call, skip, call.optional(4))
    return _contrib(call, total), total


def _contrib(call: Call, x: Float64) -> Float64:
    for name in ("groups", "activation"):
        if name not in call.node.attributes:
            raise Unknown(f"{call.node.op_type} {call.node.label!r} lacks the attribute {name}")
    channel = x.ndim - 1 if call.int_attribute("channels_last", 1) else 1
    normal = _grouped(call, x, call.int_attribute("groups", 1), channel)
    y = _affine(call, normal, *(_column(call, slot, x.shape[channel], x.ndim, channel) for slot in (1, 2)))
    activation = call.int_attribute("activation", 0)
    if activation not in (0, 1):
        raise Unknown(f"{call.node.op_type} {call.node.label!r} has activation {activation}")
    return y / (1.0 + np.exp(-y)) if activation else y


def _mean_variance(call: Call) -> Array:
    x = call.real()
    if call.version < _MEAN_VARIANCE_BY_AXES:
        raise Unknown(f"MeanVarianceNormalization {call.node.label!r} of opset {call.version}")
    axes = attributes.ints(call.node, "axes")
    axes = [0, 2, 3] if axes is None else axes
    if not axes or any(not -x.ndim <= axis < x.ndim for axis in axes):
        raise Unknown(f"MeanVarianceNormalization {call.node.label!r} over axes {axes} of {x.ndim}")
    return _standardised(x, [axis % x.ndim for axis in axes], MEAN_VARIANCE_EPSILON).values


def _trains(node: Node) -> bool:
    """Whether a BatchNormalization takes the statistics of the batch, by the rules of its opset."""
    version = node.scope.version
    if version >= _TRAINING_BY_ATTRIBUTE:
        return bool(attributes.get(node, "training_mode", 0))
    if version < _TRAINING_BY_OUTPUTS:
        return not attributes.get(node, "is_test", 0)
    return node.named_outputs() > 1


def _reads_of_batch_norm(node: Node, constants: Constants) -> Sequence[int]:
    return (0, 1, 2) if _trains(node) else (0, 1, 2, 3, 4)


def _batch_norm(call: Call) -> Array:
    """The first output alone: what a training step makes of the running statistics is nobody's norm."""
    x, epsilon = call.real(), _epsilon(call)
    if x.ndim < 2 or math.prod(x.shape) == 0:
        raise Unknown(f"BatchNormalization {call.node.label!r} of {list(x.shape)}")
    channels, rank = x.shape[1], x.ndim
    if _trains(call.node):
        normal = _standardised(x, [axis for axis in range(rank) if axis != 1], epsilon).values
    else:
        mean, variance = (_column(call, slot, channels, rank) for slot in (3, 4))
        normal = (x - mean) / np.sqrt(variance + epsilon)
    return _affine(call, normal, *(_column(call, slot, channels, rank) for slot in (1, 2)))


_LAYER = ("axis", "epsilon", "stash_type")
OPERATORS: dict[str, Operator] = {
    "LayerNormalization": Operator(_layer_norm, _LAYER, makes=(0, 1, 2)),
    "RMSNormalization": Operator(_rms_norm, _LAYER),
    "SimplifiedLayerNormalization": Operator(_rms_norm, _LAYER, makes=(0, 1)),
    "InstanceNormalization": Operator(_instance_norm, ("epsilon",)),
    "GroupNormalization": Operator(_group_norm, ("epsilon", "num_groups", "stash_type")),
    "MeanVarianceNormalization": Operator(_mean_variance, ("axes",)),
    "BatchNormalization": Operator(
        _batch_norm, ("epsilon", "momentum", "is_test", "training_mode"), _reads_of_batch_norm
    ),
}
_GROUPS = ("activation", "channels_last", "epsilon", "groups")
CONTRIB: dict[str, Operator] = {
    "SkipLayerNormalization": Operator(_skip_layer_norm, ("epsilon",), makes=None, sum_output=3, added=(1, 4)),
    "SkipSimplifiedLayerNormalization": Operator(
        _skip_rms_norm, ("epsilon",), makes=(0, 2, 3), sum_output=3, added=(1, 3)
    ),
    "GroupNorm": Operator(_contrib_group_norm, _GROUPS),
    "SkipGroupNorm": Operator(_skip_group_norm, _GROUPS, makes=None, sum_output=1, added=(3, 4)),
}
