"""The absorber MatMul, with the constant on either side, batched or not.

Behind, with `(s, t)`: the weight takes `s` along the axis that it makes; MatMul has no bias: a shift makes it a Gemm or costs
an Add. In front: the weight takes `s` along the axis that is summed over, and `t·W` is a shift behind.
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
    in_front,
    into_weights,
    parameter_name,
    require_affordable,
    require_range,
    scaled,
    zeros,
)
from normfold.affine.convolution import adds_map
from normfold.affine.crossings.base import lifted
from normfold.affine.crossings.operands import absorb_operand
from normfold.affine.draft import INPUT, Absorption, Draft
from normfold.affine.gemm import front_rows
from normfold.affine.reasons import Refused
from normfold.affine.recognise import operand_values
from normfold.model.constants import Dequantised
from normfold.model.graph import Node
from normfold.model.tensors import Float64, TensorSource

_NUMPY_BROADCAST = 7  # before this opset, operands stretched only by the attributes `broadcast` and `axis`


def _accept_matmul(draft: Draft, node: Node, affine: Affine) -> Absorption:
    closed(node, ())
    slot = _matmul_weight(draft, node)
    weight = draft.parameter(node, slot)
    if len(weight.dims) < 2:
        raise Refused("ill-formed", f"the weight has shape {list(weight.dims)}", node.label)
    becomes_gemm = _becomes_gemm(draft, node)
    # The shift of an Add behind the MatMul may vary along any axis.
    _aligned_to_weight(affine if becomes_gemm else affine.only_scale().compressed(), weight, slot, node)
    require_range(affine, weight.data_type, node)
    require_affordable(draft, node, slot, weight)
    adds = needs_add(draft, node, affine)
    if adds and node.scope.version < _NUMPY_BROADCAST:
        raise Refused(
            "shift-blocked",
            f"an Add behind {node.label!r} would have to broadcast by the rules before opset 7",
            node.label,
        )
    return into_weights(node, affine, adds_node=adds)


def needs_add(draft: Draft, node: Node, affine: Affine) -> bool:
    """Whether an affine behind an operator costs a new Add: a MatMul that may not become a Gemm, a map behind a Conv."""
    if node.op_type == "MatMul":
        return affine.shifts and not _becomes_gemm(draft, node)
    return node.op_type == "Conv" and adds_map(affine)


def _matmul_weight(draft: Draft, node: Node) -> int:
    constant = [slot for slot in (0, 1) if draft.constants.get(node.input(slot)) is not None]
    if len(constant) != 1:
        raise draft_refusal(draft, node)
    return constant[0]


def draft_refusal(draft: Draft, node: Node) -> Refused:
    """Why a MatMul of two data tensors has no weights: the reason of its right operand."""
    try:
        draft.parameter(node, 1)
    except Refused as reason:
        return reason
    return Refused("no-absorber", f"MatMul {node.label!r} multiplies two constants", node.label)


def _aligned_to_weight(affine: Affine, weight: TensorSource, slot: int, node: Node) -> Float64:
    """The scale with the dimensions of the weight.

    `X[…, K] @ W[…, K, N]`: the last axis carries N; the axis before it comes from X and must not vary. With the constant
    on the left it is the other way round. A batch axis of W is W's own only if X cannot have stretched it.
    """
    rank = len(weight.dims)
    foreign = affine.rank - 2 if slot == 1 else affine.rank - 1
    if affine.rank < rank or foreign in affine.varying:
        raise Refused(
            "not-per-channel", f"it does not vary along the axis that the weight of {node.label!r} makes", node.label
        )
    for axis in affine.varying:
        own = axis - (affine.rank - rank)
        if own < 0 or weight.dims[own] != affine.shape[axis]:
            raise Refused("not-per-channel", f"axis {axis} is not an axis of the weight of {node.label!r}", node.label)
    return affine.scale.reshape(affine.scale.shape[affine.rank - rank :])


def _accept_matmul_forward(draft: Draft, node: Node, arriving: Mapping[int, Affine]) -> tuple[Absorption, ...]:
    """An affine along the axis that is summed over (and along batch axes that the weight has as well)."""
    closed(node, ())
    slot = _matmul_weight(draft, node)
    affine, weight = arriving[1 - slot], draft.parameter(node, slot)
    if len(weight.dims) < 2:
        raise Refused("ill-formed", f"the weight has shape {list(weight.dims)}", node.label)
    rank = draft.shapes.rank(node.output)
    if rank is None:
        raise Refused("shape-unknown", f"the rank of {node.output.name!r} is not known", node.label)
    scale = _on_weight(affine.scale, weight, slot, node)
    shift = _on_weight(affine.shift, weight, slot, node)
    require_range(affine, weight.data_type, node)
    require_affordable(draft, node, slot, weight)
    front = Affine(scale, np.zeros((1,) * scale.ndim))
    behind = uniform(1.0, 0.0, rank)
    if not shift.any():
        return in_front(node, front, into_weights(node, behind))
    behind = Affine(behind.scale, _shift_behind_matmul(draft, node, weight, slot, shift, rank))
    return _with_matmul_shift(draft, node, front, behind)


def _on_weight(values: Float64, weight: TensorSource, slot: int, node: Node) -> Float64:
    """Values on the data operand in broadcast form of the weight, K on the axis of the weight that is summed over.

    Raises:
        Refused: `not-per-channel`, they vary along an axis of the data that the weight does not have.
    """
    rank = len(weight.dims)
    summed = values.ndim - 1 if slot == 1 or values.ndim == 1 else values.ndim - 2
    result = np.ones((1,) * rank)
    vector = np.moveaxis(values, summed, -1)  # [..., other, K]
    if values.ndim > 1 and vector.shape[-2] != 1:
        raise Refused("not-per-channel", f"it varies along an axis that {node.label!r} does not sum over", node.label)
    batch = vector.shape[:-2] if values.ndim > 1 else ()
    lead = len(batch) - (rank - 2)
    if any(size != 1 for size in batch[: max(lead, 0)]) or any(
        size not in (1, weight.dims[axis]) for axis, size in enumerate(batch[max(lead, 0) :], max(-lead, 0))
    ):
        raise Refused("not-per-channel", f"it varies along a batch axis that {node.label!r} only passes on", node.label)
    count = weight.dims[-2] if slot == 1 else weight.dims[-1]
    if vector.shape[-1] not in (1, count):
        raise Refused("ill-formed", f"{vector.shape[-1]} values for {count} rows of {node.label!r}", node.label)
    kept = (1,) * max(-lead, 0) + batch[max(lead, 0) :]
    tail = (-1, 1) if slot == 1 else (1, -1)
    full = np.broadcast_to(vector.reshape(*kept, vector.shape[-1]), (*kept, count)).reshape(*kept, *tail)
    return np.asarray(result * full)


def _shift_behind_matmul(
    draft: Draft, node: Node, weight: TensorSource, slot: int, shift: Float64, rank: int
) -> Float64:
    """`t·W`, scaled by what the operator collected so far, in broadcast form of the output."""
    before, after = draft.pending(node, INPUT), draft.pending(node)
    shift = shift if before is None else shift * before.scale
    axis = -2 if slot == 1 else -1
    total = np.sum(weight.array().astype(np.float64) * shift, axis=axis, keepdims=True, dtype=np.float64)
    data_rank = draft.shapes.rank(node.inputs[1 - slot])  # type: ignore[arg-type]
    if data_rank == 1:
        total = np.squeeze(total, axis)
    total = total.reshape((1,) * (rank - total.ndim) + total.shape)
    return total if after is None else np.asarray(after.scale * total)


def _with_matmul_shift(draft: Draft, node: Node, front: Affine, behind: Affine) -> tuple[Absorption, ...]:
    """The shift goes into the constant of an Add behind, if there is one, else into a Gemm or a new Add."""
    use = draft.only_reader(node.output)
    if use is not None and draft.output_of(node.output) is None and use.node.scope is node.scope:
        add, operand = use.node, 1 - use.slot
        if add.op_type == "Add" and not add.domain and draft.constants.get(add.inputs[operand]) is not None:
            neutral = uniform(1.0, 0.0, behind.rank)
            part = lifted(behind, max(behind.rank, len(draft.parameter(add, operand).dims)))
            if _still_broadcasts(draft, add, operand, part):
                absorbed = absorb_operand(draft, add, operand, part)
                return (*in_front(node, front, into_weights(node, neutral)), absorbed)
    return in_front(node, front, _accept_matmul(draft, node, behind))


def _still_broadcasts(draft: Draft, add: Node, operand: int, part: Affine) -> bool:
    """Whether an Add may have a constant of the shape that holds the affine as well.

    Before opset 7 its dimensions must be those of the data, one after the other; none may be stretched.
    """
    if add.scope.version >= _NUMPY_BROADCAST:
        return True
    shape = np.broadcast_shapes(operand_values(draft, add, operand, part.rank).shape, part.shape)
    first = next((axis for axis, size in enumerate(shape) if size != 1), part.rank)
    dims = draft.shapes.dims(add.output)
    return dims is not None and shape[first:] == tuple(dims[first:])


def _becomes_gemm(draft: Draft, node: Node) -> bool:
    """Gemm takes exactly rank 2, and its bias is optional or broadcasts without attributes only in newer opsets.

    The kernels for quantised weights are those of MatMul.
    """
    right = draft.constants.get(node.input(1))
    data = node.input(0)
    return (
        right is not None
        and not isinstance(right, Dequantised)
        and len(right.dims) == 2
        and data is not None
        and draft.shapes.rank(data) == 2
        and node.scope.version >= _NUMPY_BROADCAST
        and right.data_type in _GEMM_TYPES
    )


_GEMM_TYPES = (1, 10, 11)


def _build_matmul(draft: Draft, node: Node, affine: Affine) -> Change:
    slot = _matmul_weight(draft, node)
    weight = draft.parameter(node, slot)
    scale = np.ones((1,) * len(weight.dims))
    if affine.scales:
        scale = _aligned_to_weight(affine.only_scale().compressed(), weight, slot, node)
    rows = front_rows(draft, node)
    scale = scale if rows is None else scale * rows
    inputs = {slot: scaled(weight, scale, parameter_name(node, slot, "weight"))} if (scale != 1).any() else {}
    shift = affine.compressed().shift
    if not shift.any():
        return Change(node, inputs)
    if _becomes_gemm(draft, node):
        vector = np.ascontiguousarray(np.broadcast_to(shift.reshape(-1), (weight.dims[1],)))
        return Change(node, {**inputs, 2: _new(node, vector, weight)}, op_type="Gemm")
    trimmed = shift.reshape(shift.shape[next((i for i, size in enumerate(shift.shape) if size != 1), shift.ndim) :])
    return Change(node, inputs, add=_new(node, trimmed, weight))


def _new(node: Node, shift: Float64, weight: TensorSource) -> NewParameter:
    return NewParameter(
        zeros(shift.shape, weight.data_type), weight.data_type, shift.shape, f"{node.label}.bias", offset=shift
    )


MATMUL = Absorber(_accept_matmul, _build_matmul, _accept_matmul_forward)
