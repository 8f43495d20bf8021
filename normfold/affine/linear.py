"""Absorbers that multiply matrices, Gemm and MatMul, and embedding tables behind Gather.

Behind, with `y = x·W + b` and `(s, t)`: `W' = W·s` along the axis that the weight makes, `b' = s·b + t`. In front, with
`x = s·x' + t`: `W' = s·W` along the axis that is summed over, `b' = b + t·W`; there is no padding, so always.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from normfold.affine.algebra import Affine, per_channel, uniform
from normfold.affine.change import (
    Absorber,
    Change,
    NewParameter,
    closed,
    hidden_channels,
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
from normfold.affine.reasons import Refused
from normfold.affine.recognise import operand_values
from normfold.model import attributes, dtypes
from normfold.model.constants import Dequantised
from normfold.model.graph import Node
from normfold.model.tensors import Float64, TensorSource

_NUMPY_BROADCAST = 7  # before this opset, operands stretched only by the attributes `broadcast` and `axis`

# --- Gemm: alpha·A'·B' + beta·C --------------------------------------------------------------------------------------

_GEMM_ATTRIBUTES = ("alpha", "beta", "transA", "transB", "broadcast")
_GEMM_BIAS_OPTIONAL = 11


def _accept_gemm(draft: Draft, node: Node, affine: Affine) -> Absorption:
    closed(node, _GEMM_ATTRIBUTES)
    if affine.is_uniform and not affine.shifts and not _constant_columns(draft, node):
        return _accept_gemm_uniform(draft, node, affine)
    weight = draft.parameter(node, 1)
    if len(weight.dims) != 2 or affine.rank != 2:
        raise Refused("ill-formed", f"the weight has shape {list(weight.dims)}", node.label)
    columns = weight.dims[0 if attributes.get(node, "transB", 0) else 1]
    affine.vectors(1, columns)
    if node.input(2) is not None:
        _gemm_bias_dims(draft, node, columns)
    require_range(affine, weight.data_type, node)
    require_affordable(draft, node, 1, weight)
    return into_weights(node, affine)


def _constant_columns(draft: Draft, node: Node) -> bool:
    bias = node.input(2)
    return draft.constants.get(node.input(1)) is not None and (bias is None or draft.constants.get(bias) is not None)


def _accept_gemm_uniform(draft: Draft, node: Node, affine: Affine) -> Absorption:
    """`s·(alpha·A·B + beta·C)`: a uniform scale goes into the attributes, whatever is constant.

    Only powers of two survive the float32 attribute without a rounding that the weights would not have had; others too
    are within one unit of the last place of float32, which is why wider types are refused.
    """
    kind = draft.shapes.data_type(node.output)
    if kind is None:
        raise Refused("shape-unknown", f"the element type of {node.output.name!r} is not known", node.label)
    require_range(affine, kind, node)
    before = draft.pending(node)
    total = affine if before is None else before.then(affine)
    for name in ("alpha", "beta"):
        wanted = float(attributes.get(node, name, 1.0)) * float(total.scale.reshape(-1)[0])
        with np.errstate(over="ignore", under="ignore"):
            stored = float(np.float32(wanted))
        normal = stored == wanted or dtypes.smallest_normal(dtypes.FLOAT) <= abs(stored) <= dtypes.largest(dtypes.FLOAT)
        if not normal or (kind == dtypes.DOUBLE and stored != wanted):
            raise Refused("dtype-range", f"{name} = {wanted:g} does not fit a float32 attribute", node.label)
    return into_weights(node, affine)


def _gemm_bias_dims(draft: Draft, node: Node, columns: int) -> tuple[int, ...]:
    """The shape of `s·beta·C + t`: the smallest that holds it."""
    dims = draft.parameter(node, 2).dims
    if dims not in ((), (1,), (columns,), (1, columns)) and (len(dims) != 2 or dims[1] not in (1, columns)):
        raise Refused("ill-formed", f"C has shape {list(dims)} for {columns} columns", node.label)
    if len(dims) < 2:
        return (columns,)
    return (dims[0], columns)


def _gemm_rows(draft: Draft, node: Node) -> tuple[TensorSource, bool, int]:
    """The constant right operand, whether it is transposed, and how many of its rows are summed over."""
    weight = draft.parameter(node, 1)
    if len(weight.dims) != 2:
        raise Refused("ill-formed", f"the weight has shape {list(weight.dims)}", node.label)
    transposed = bool(attributes.get(node, "transB", 0))
    return weight, transposed, weight.dims[1 if transposed else 0]


def _accept_gemm_forward(draft: Draft, node: Node, arriving: Mapping[int, Affine]) -> tuple[Absorption, ...]:
    """`A' = s·A + t` along K: rows of B are scaled, and `alpha·t·B` is a shift behind."""
    closed(node, _GEMM_ATTRIBUTES)
    affine = _left_only(node, arriving)
    weight, transposed, count = _gemm_rows(draft, node)
    axis = 0 if attributes.get(node, "transA", 0) else 1
    if affine.rank != 2:
        raise Refused("ill-formed", f"rank {affine.rank} in front of Gemm {node.label!r}", node.label)
    scale, shift = affine.vectors(axis, count)
    require_range(affine, weight.data_type, node)
    require_affordable(draft, node, 1, weight)
    behind = uniform(1.0, 0.0, 2)
    if shift.any():
        before, after = draft.pending(node, INPUT), draft.pending(node)
        shift = shift if before is None else shift * before.scale.reshape(-1)
        matrix = weight.array().astype(np.float64)
        total = float(attributes.get(node, "alpha", 1.0)) * (shift @ (matrix.T if transposed else matrix))
        behind = Affine(behind.scale, total.reshape(1, -1) if after is None else after.scale * total.reshape(1, -1))
    front = per_channel(scale, np.zeros_like(scale), 2, axis)
    return in_front(
        node, front, into_weights(node, behind) if behind.is_identity else _accept_gemm(draft, node, behind)
    )


def _left_only(node: Node, arriving: Mapping[int, Affine]) -> Affine:
    if set(arriving) != {0}:
        raise Refused("dynamic-params", f"{node.op_type} {node.label!r} multiplies two data tensors", node.label)
    return arriving[0]


def front_rows(draft: Draft, node: Node) -> Float64 | None:
    """What the weight is multiplied by for the scales that were collected in front, in its broadcast form; None for 1."""
    front = draft.pending(node, INPUT)
    if front is None or not front.scales:
        return None
    if node.op_type == "MatMul":
        return front.scale  # already in the form of the weight
    return front.scale.reshape((1, -1) if attributes.get(node, "transB", 0) else (-1, 1))


def _build_gemm(draft: Draft, node: Node, affine: Affine) -> Change:
    rows = front_rows(draft, node)
    if not _constant_columns(draft, node):
        factor = float(affine.scale.reshape(-1)[0])
        changed = {n: float(attributes.get(node, n, 1.0)) * factor for n in ("alpha", "beta")} if factor != 1 else {}
        if rows is None:
            return Change(node, attributes=changed)
        weight = draft.parameter(node, 1)
        return Change(node, {1: scaled(weight, rows, parameter_name(node, 1, "weight"))}, dict(changed))
    weight = draft.parameter(node, 1)
    transposed = bool(attributes.get(node, "transB", 0))
    columns = weight.dims[0 if transposed else 1]
    scale, shift = affine.vectors(1, columns)
    shape = (-1, 1) if transposed else (1, -1)
    has_bias = shift.any() or (node.input(2) is not None and affine.scales)
    bias = _gemm_bias(draft, node, scale, shift, weight) if has_bias else None
    inputs: dict[int, NewParameter] = {} if bias is None else {2: bias}
    hidden = hidden_channels(bias, weight, columns)
    changed_beta = {"beta": 1.0} if has_bias and attributes.get(node, "beta", 1.0) != 1.0 else {}
    factor_of = scale.reshape(shape) if affine.scales else None
    if rows is not None:
        factor_of = rows if factor_of is None else factor_of * rows
    if factor_of is not None:
        inputs[1] = scaled(weight, factor_of, parameter_name(node, 1, "weight"), hidden.reshape(shape))
    return Change(node, inputs, dict(changed_beta))


def _gemm_bias(draft: Draft, node: Node, scale: Float64, shift: Float64, weight: TensorSource) -> NewParameter:
    """`C' = s·beta·C + t` with `beta' = 1`: beta is used up exactly once."""
    hint = parameter_name(node, 2, "bias")
    if node.input(2) is None:
        return NewParameter(zeros(shift.shape, weight.data_type), weight.data_type, shift.shape, hint, offset=shift)
    source = draft.parameter(node, 2)
    dims = _gemm_bias_dims(draft, node, scale.size)
    beta = float(np.float32(attributes.get(node, "beta", 1.0)))
    return NewParameter(source, source.data_type, dims, hint, scale * beta, shift)


# --- MatMul ----------------------------------------------------------------------------------------------------------


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
    if set(arriving) != {1 - slot}:
        raise Refused("dynamic-params", f"MatMul {node.label!r} multiplies two data tensors", node.label)
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
    readers = draft.readers(node.output)
    if len(readers) == 1 and draft.output_of(node.output) is None and readers[0].node.scope is node.scope:
        add, operand = readers[0].node, 1 - readers[0].slot
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


# --- Gather(table, ids) on axis 0 ------------------------------------------------------------------------------------


def _accept_gather(draft: Draft, node: Node, affine: Affine) -> Absorption:
    closed(node, ("axis",))
    table = draft.parameter(node, 0)
    if int(attributes.get(node, "axis", 0)) % max(len(table.dims), 1) != 0 or len(table.dims) < 2:
        raise Refused("no-absorber", f"Gather {node.label!r} does not read rows of a table", node.label)
    _aligned_to_table(affine, table, node)
    require_range(affine, table.data_type, node)
    require_affordable(draft, node, 0, table)
    return into_weights(node, affine)


def _aligned_to_table(affine: Affine, table: TensorSource, node: Node) -> tuple[Float64, Float64]:
    lead = affine.rank - (len(table.dims) - 1)
    for axis in affine.varying:
        if axis < lead or affine.shape[axis] != table.dims[axis - lead + 1]:
            raise Refused("not-per-channel", f"axis {axis} is not an axis of the table of {node.label!r}", node.label)
    return tuple(part.reshape(1, *part.shape[lead:]) for part in (affine.scale, affine.shift))  # type: ignore[return-value]


def _build_gather(draft: Draft, node: Node, affine: Affine) -> Change:
    table = draft.parameter(node, 0)
    scale, shift = _aligned_to_table(affine, table, node)
    new = NewParameter(table, table.data_type, table.dims, parameter_name(node, 0, "table"), scale, shift)
    return Change(node, {0: new})


LINEAR: dict[str, Absorber] = {
    "Gemm": Absorber(_accept_gemm, _build_gemm, _accept_gemm_forward),
    "MatMul": Absorber(_accept_matmul, _build_matmul, _accept_matmul_forward),
    "Gather": Absorber(_accept_gather, _build_gather),
}
