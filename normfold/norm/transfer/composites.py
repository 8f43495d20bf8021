"""Norms that are one operator, as chains of the elementary ones: their outputs are normal forms like any other."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from normfold.model import attributes
from normfold.model.graph import Node, Value
from normfold.norm import forms
from normfold.norm.filled import collapsed, is_filled, mapped
from normfold.norm.frame import Constant, Fact, Frame, Operand, Transfer
from normfold.norm.meaning import Float64
from normfold.norm.transfer.elementwise import add, multiply, power
from normfold.norm.transfer.reductions import mean
from normfold.norm.transfer.view_ops import reshape_to
from normfold.norm.views import UNIT, sizes

Facts = Sequence[Fact | None] | None
Normalised = tuple[Fact | None, Fact | None, Fact | None]  # the result, the mean, and the inverse root
# The function body adds 1e-9 to the standard deviation, kernels add nothing: this agrees with both where it matters.
_MVN_EPSILON = 1e-18
_TRAINING_BY_ATTRIBUTE = 14  # before, the number of outputs said it


def epsilon_of(node: Node) -> float:
    """The epsilon of a norm operator: attributes and their defaults are float32."""
    return float(np.float32(attributes.get(node, "epsilon", 1e-5)))


def normalised(frame: Frame, fact: Fact, axes: Collection[int], epsilon: float, *, centred: bool) -> Normalised:
    """`(x - mean) / sqrt(variance + epsilon)`, or `x / sqrt(mean square + epsilon)`."""
    average = mean(frame, fact, axes, keep=True)
    deviation = fact if not centred else add(frame, fact, average, -1.0)
    square = power(deviation, 2.0)
    if deviation is None or square is None:
        return None, None, None
    variance = mean(frame, square, axes, keep=True)
    if variance is None or variance.partial:
        return None, None, None
    form = forms.added(variance.form, forms.constant(epsilon), 1.0, frame.close)
    inverse = None if form is None else power(replace(variance, form=form), -0.5)
    return multiply(frame, deviation, inverse), average, inverse


def affine(frame: Frame, fact: Fact | None, node: Node, shape: Sequence[int] | None, first: int = 1) -> Fact | None:
    """`fact · scale + bias` with the constants in the input slots from `first` on; `shape` is theirs in the result."""
    for slot, step in ((first, multiply), (first + 1, add)):
        value = node.input(slot)
        if value is None:
            continue
        found = frame.constant(value)
        if found is None:
            return None
        values = found.values if shape is None else found.values.reshape(shape)
        fact = step(frame, fact, Constant(values, found.data_type))
    return fact


def typed(frame: Frame, fact: Fact | None, value: Value | None) -> Fact | None:
    """The fact with the element type of the output that it is about."""
    kind = None if value is None else frame.shapes.data_type(value)
    return fact if fact is None or kind is None else replace(fact, data_type=kind)


def trailing(node: Node, rank: int) -> list[int] | None:
    """The dimensions from `axis` on."""
    axis = int(attributes.get(node, "axis", -1))
    axis += rank if axis < 0 else 0
    return list(range(axis, rank)) if 0 <= axis < rank else None


def _over_suffix(frame: Frame, node: Node, *, centred: bool) -> Facts:
    fact = frame.fact(node.input(0))
    if fact is None or attributes.unexpected(node, ("axis", "epsilon", "stash_type")):
        return None
    axes = trailing(node, len(fact.view))
    if axes is None or attributes.get(node, "stash_type", 1) != 1:
        return None
    epsilon = epsilon_of(node)
    result, average, inverse = normalised(frame, fact, axes, epsilon, centred=centred)
    outputs = [affine(frame, result, node, None), average, inverse] if centred else [affine(frame, result, node, None)]
    return [typed(frame, item, value) for item, value in zip(outputs, node.outputs, strict=False)]


def _layer_norm(frame: Frame, node: Node) -> Facts:
    return _over_suffix(frame, node, centred=True)


def _rms_norm(frame: Frame, node: Node) -> Facts:
    return _over_suffix(frame, node, centred=False)


def _per_channel(rank: int) -> list[int]:
    return [-1, *[1] * (rank - 2)]


def _instance_norm(frame: Frame, node: Node) -> Facts:
    fact = frame.fact(node.input(0))
    if fact is None or len(fact.view) < 3 or attributes.unexpected(node, ("epsilon",)) or node.scope.version < 6:
        return None
    epsilon, rank = epsilon_of(node), len(fact.view)
    result, _, _ = normalised(frame, fact, range(2, rank), epsilon, centred=True)
    return [affine(frame, result, node, _per_channel(rank))]


def grouped(frame: Frame, fact: Fact, groups: int, channel: int, epsilon: float) -> Fact | None:
    """Normalised over the channels of each group and all dimensions but the first.

    Raises:
        SplitError: the channels are not cut yet.
    """
    before = sizes(fact.view, frame.atoms)
    if groups <= 0:
        return None
    target = [*before[:channel], groups, before[channel] // groups, *before[channel + 1 :]]
    view = reshape_to(frame, fact.view, target, zero_copies=False)
    if view is None:
        return None
    axes = [i for i in range(1, len(view)) if i != channel]
    result, _, _ = normalised(frame, replace(fact, view=view), axes, epsilon, centred=True)
    return None if result is None else replace(result, view=fact.view)


def _group_norm(frame: Frame, node: Node) -> Facts:
    fact, groups = frame.fact(node.input(0)), int(attributes.get(node, "num_groups", 0))
    known = ("epsilon", "num_groups", "stash_type")
    if fact is None or len(fact.view) < 3 or attributes.unexpected(node, known) or node.scope.version < 18:
        return None
    if attributes.get(node, "stash_type", 1) != 1:
        return None
    result = grouped(frame, fact, groups, 1, epsilon_of(node))
    rank, channels = len(fact.view), frame.extent(fact.view[1])
    for slot, step in ((1, multiply), (2, add)):
        found = frame.constant(node.input(slot))
        if found is None or result is None:
            return None
        values = found.values if node.scope.version >= 21 else _repeated(found.values, channels // groups)
        result = step(frame, result, Constant(values.reshape(_per_channel(rank)), found.data_type))
    return [result]


def _repeated(values: Float64, count: int) -> Float64:
    """One element per channel, of one per group."""
    return np.broadcast_to(collapsed(values), len(values) * count) if is_filled(values) else np.repeat(values, count)


def _mean_variance_norm(frame: Frame, node: Node) -> Facts:
    fact = frame.fact(node.input(0))
    if fact is None or attributes.unexpected(node, ("axes",)) or node.scope.version < 9:
        return None
    axes = {axis % len(fact.view) for axis in attributes.ints(node, "axes") or (0, 2, 3) if axis < len(fact.view)}
    return [normalised(frame, fact, axes, _MVN_EPSILON, centred=True)[0]]


def _batch_norm(frame: Frame, node: Node) -> Facts:
    """With constant statistics an affine, with those of the data a norm."""
    if takes_statistics(node):
        return _training_batch_norm(frame, node)
    fact = frame.fact(node.input(0))
    known = ("epsilon", "spatial", "is_test", "training_mode")
    if fact is None or len(fact.view) < 2 or node.named_outputs() != 1 or attributes.unexpected(node, known):
        return None
    version = node.scope.version
    if version < 7 or (version < 9 and attributes.get(node, "spatial", 1) != 1):
        return None
    epsilon = epsilon_of(node)
    average, variance = (_statistic(frame, fact, value) for value in node.inputs[3:5])
    centred = add(frame, fact, average, -1.0)
    inverse = _inverse_root(frame, variance, epsilon)
    return [affine(frame, multiply(frame, centred, inverse), node, _per_channel(len(fact.view)))]


def takes_statistics(node: Node) -> bool:
    """Whether a BatchNormalization is in training mode, by its attribute: it normalises with statistics of its input."""
    return not attributes.is_bound_by_caller(node) and bool(attributes.get(node, "training_mode", 0))


def _training_batch_norm(frame: Frame, node: Node) -> Facts:
    """A norm of one sample, `[1, C, *spatial]`: over several, what one becomes depends on the others, as in no other norm."""
    fact = frame.fact(node.input(0))
    if fact is None or len(fact.view) < 3 or not fact.view[0].is_unit or node.scope.version < _TRAINING_BY_ATTRIBUTE:
        return None
    if attributes.unexpected(node, ("epsilon", "momentum", "training_mode")):
        return None
    rank = len(fact.view)
    result, _, _ = normalised(frame, fact, range(2, rank), epsilon_of(node), centred=True)
    return [affine(frame, result, node, _per_channel(rank))]


def _statistic(frame: Frame, fact: Fact, value: Value | None) -> Operand:
    """Mean or variance `[C]` of a BatchNormalization, aligned with dimension 1."""
    rank = len(fact.view)
    found = frame.operand(value)
    if isinstance(found, Constant):
        return Constant(found.values.reshape(_per_channel(rank)), found.data_type)
    if found is None or len(found.view) != 1:
        return None
    return replace(found, view=(UNIT, found.view[0], *[UNIT] * (rank - 2)), data_type=fact.data_type)


def _inverse_root(frame: Frame, variance: Operand, epsilon: float) -> Operand:
    if isinstance(variance, Constant):
        # What is not positive gives what is not finite, and nothing is multiplied with that.
        return Constant(mapped(variance.values, lambda values: (values + epsilon) ** -0.5), variance.data_type)
    shifted = add(frame, variance, Constant(np.array(epsilon), 0))
    return power(shifted, -0.5)


TABLE: dict[str, Transfer] = {
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "SimplifiedLayerNormalization": _rms_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "MeanVarianceNormalization": _mean_variance_norm,
    "BatchNormalization": _batch_norm,
}
