"""Absorbers with weights: Conv, ConvTranspose, Gemm, MatMul, and embedding tables behind Gather.

With `y = W·x + b` and an affine `(s, t)` behind it: `W' = s·W` along the output channels and `b' = s·b + t`. What differs
is where an operator keeps its output channels.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normfold.affine.algebra import Affine
from normfold.affine.change import (
    Absorber,
    Change,
    NewParameter,
    into_weights,
    negligible,
    parameter_name,
    require_affordable,
    require_range,
    scaled,
    zeros,
)
from normfold.affine.draft import Absorption, Draft
from normfold.affine.reasons import Refused
from normfold.model import attributes, dtypes
from normfold.model.graph import Node
from normfold.model.tensors import Float64, TensorSource

Integers = NDArray[np.integer[Any]]

_CONV_ATTRIBUTES = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
_TRANSPOSE_ATTRIBUTES = (*_CONV_ATTRIBUTES, "output_padding", "output_shape")


def _closed(node: Node, known: tuple[str, ...]) -> None:
    strange = attributes.unexpected(node, known)
    if strange:
        raise Refused("unknown-attribute", f"attribute {strange!r} of {node.label!r}", node.label)


def _group(draft: Draft, node: Node, channels: int) -> int:
    group = int(draft.attribute(node, "group", 1))
    if group < 1 or channels % group:
        raise Refused("ill-formed", f"group {group} does not divide {channels} channels", node.label)
    return group


def _bias(
    draft: Draft, node: Node, slot: int, scale: Float64, shift: Float64, weight: TensorSource
) -> NewParameter | None:
    """`s·b + t` of shape `[C]`; None where there is neither a bias nor a shift."""
    if node.input(slot) is None:
        if not shift.any():
            return None
        return NewParameter(
            zeros(shift.shape, weight.data_type),
            weight.data_type,
            shift.shape,
            parameter_name(node, slot, "bias"),
            offset=shift,
        )
    source = draft.parameter(node, slot)
    if source.dims != scale.shape:
        raise Refused("ill-formed", f"the bias of {node.label!r} has shape {list(source.dims)}", node.label)
    return NewParameter(source, source.data_type, source.dims, parameter_name(node, slot, "bias"), scale, shift)


def _hidden(bias: NewParameter | None, weight: TensorSource, channels: int) -> NDArray[np.bool_]:
    """Which channels' weights the new bias hides if they underflow, shape `[C]`."""
    if bias is None:
        return np.zeros(channels, bool)
    values = bias.base.array().astype(np.float64) * (1.0 if bias.factor is None else bias.factor)
    values = values if bias.offset is None else values + bias.offset
    lowest = np.abs(np.atleast_2d(values)).min(axis=0)
    return negligible(
        np.broadcast_to(lowest, (channels,)), weight.data_type, math.prod(weight.dims) // max(channels, 1)
    )


def _with_weight_and_bias(
    node: Node, weight: TensorSource, factor: Float64 | None, bias: NewParameter | None, channels: Integers
) -> Change:
    """`channels` has the shape of the factor and holds the output channel of every entry."""
    inputs = {} if bias is None else {2: bias}
    if factor is not None:
        hidden = _hidden(bias, weight, int(channels.max(initial=-1)) + 1)[channels]
        inputs[1] = scaled(weight, factor, parameter_name(node, 1, "weight"), hidden)
    return Change(node, inputs)


# --- Conv: W[Cout, Cin/g, *k] ----------------------------------------------------------------------------------------


def _accept_conv(draft: Draft, node: Node, affine: Affine) -> Absorption:
    _closed(node, _CONV_ATTRIBUTES)
    weight = draft.parameter(node, 1)
    if len(weight.dims) < 3:
        raise Refused("ill-formed", f"the weight has shape {list(weight.dims)}", node.label)
    _accept_channels(draft, node, affine, weight, weight.dims[0])
    return into_weights(node, affine)


def _accept_channels(draft: Draft, node: Node, affine: Affine, weight: TensorSource, channels: int) -> None:
    if affine.rank != len(weight.dims):
        raise Refused("ill-formed", f"rank {affine.rank} behind a weight of rank {len(weight.dims)}", node.label)
    _group(draft, node, channels)
    affine.vectors(1, channels)
    if node.input(2) is not None and draft.parameter(node, 2).dims != (channels,):
        raise Refused("ill-formed", f"the bias of {node.label!r} has not {channels} values", node.label)
    require_range(affine, weight.data_type, node)
    require_affordable(draft, node, 1, weight)


def _build_conv(draft: Draft, node: Node, affine: Affine) -> Change:
    weight = draft.parameter(node, 1)
    scale, shift = affine.vectors(1, weight.dims[0])
    shape = (-1, *([1] * (len(weight.dims) - 1)))
    factor = scale.reshape(shape) if affine.scales else None
    channels = np.arange(scale.size).reshape(shape)
    return _with_weight_and_bias(node, weight, factor, _bias(draft, node, 2, scale, shift, weight), channels)


# --- ConvTranspose: W[Cin, Cout/g, *k] -------------------------------------------------------------------------------


def _accept_conv_transpose(draft: Draft, node: Node, affine: Affine) -> Absorption:
    _closed(node, _TRANSPOSE_ATTRIBUTES)
    weight = draft.parameter(node, 1)
    if len(weight.dims) < 3:
        raise Refused("ill-formed", f"the weight has shape {list(weight.dims)}", node.label)
    group = _group(draft, node, weight.dims[0])
    _accept_channels(draft, node, affine, weight, weight.dims[1] * group)
    return into_weights(node, affine)


def _build_conv_transpose(draft: Draft, node: Node, affine: Affine) -> Change:
    """Output channel `o` is `(j, o mod Cout/g)` with group `j`, whose weights are the rows `j·Cin/g …` of W."""
    weight = draft.parameter(node, 1)
    rows, per_group = weight.dims[:2]
    group = _group(draft, node, rows)
    scale, shift = affine.vectors(1, per_group * group)
    channels = np.repeat(np.arange(scale.size).reshape(group, per_group), rows // group, axis=0)
    channels = channels.reshape(rows, per_group, *([1] * (len(weight.dims) - 2)))
    factor = scale[channels] if affine.scales else None
    return _with_weight_and_bias(node, weight, factor, _bias(draft, node, 2, scale, shift, weight), channels)


# --- Gemm: alpha·A'·B' + beta·C --------------------------------------------------------------------------------------

_GEMM_ATTRIBUTES = ("alpha", "beta", "transA", "transB", "broadcast")
_GEMM_BIAS_OPTIONAL = 11


def _accept_gemm(draft: Draft, node: Node, affine: Affine) -> Absorption:
    _closed(node, _GEMM_ATTRIBUTES)
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


def _build_gemm(draft: Draft, node: Node, affine: Affine) -> Change:
    if not _constant_columns(draft, node):
        factor = float(affine.scale.reshape(-1)[0])
        return Change(node, attributes={n: float(attributes.get(node, n, 1.0)) * factor for n in ("alpha", "beta")})
    weight = draft.parameter(node, 1)
    transposed = bool(attributes.get(node, "transB", 0))
    columns = weight.dims[0 if transposed else 1]
    scale, shift = affine.vectors(1, columns)
    shape = (-1, 1) if transposed else (1, -1)
    has_bias = node.input(2) is not None or shift.any()
    bias = _gemm_bias(draft, node, scale, shift, weight) if has_bias else None
    inputs: dict[int, NewParameter] = {} if bias is None else {2: bias}
    hidden = _hidden(bias, weight, columns)
    changed = {"beta": 1.0} if has_bias and attributes.get(node, "beta", 1.0) != 1.0 else {}
    if affine.scales:
        inputs[1] = scaled(weight, scale.reshape(shape), parameter_name(node, 1, "weight"), hidden.reshape(shape))
    return Change(node, inputs, dict(changed))


def _gemm_bias(draft: Draft, node: Node, scale: Float64, shift: Float64, weight: TensorSource) -> NewParameter:
    """`C' = s·beta·C + t` with `beta' = 1`: beta is used up exactly once."""
    hint = parameter_name(node, 2, "bias")
    if node.input(2) is None:
        return NewParameter(zeros(shift.shape, weight.data_type), weight.data_type, shift.shape, hint, offset=shift)
    source = draft.parameter(node, 2)
    dims = _gemm_bias_dims(draft, node, scale.size)
    beta = float(np.float32(attributes.get(node, "beta", 1.0)))
    return NewParameter(source, source.data_type, dims, hint, scale * beta, shift)


_NUMPY_BROADCAST = 7  # before this opset, operands stretched only by the attributes `broadcast` and `axis`

# --- MatMul ----------------------------------------------------------------------------------------------------------


def _accept_matmul(draft: Draft, node: Node, affine: Affine) -> Absorption:
    _closed(node, ())
    slot = _matmul_weight(draft, node)
    weight = draft.parameter(node, slot)
    if len(weight.dims) < 2:
        raise Refused("ill-formed", f"the weight has shape {list(weight.dims)}", node.label)
    becomes_gemm = _becomes_gemm(draft, node)
    # The shift of an Add behind the MatMul may vary along any axis.
    _aligned_to_weight(affine if becomes_gemm else affine.only_scale().compressed(), weight, slot, node)
    require_range(affine, weight.data_type, node)
    require_affordable(draft, node, slot, weight)
    needs_add = affine.shifts and not becomes_gemm
    if needs_add and node.scope.version < _NUMPY_BROADCAST:
        raise Refused(
            "shift-blocked",
            f"an Add behind {node.label!r} would have to broadcast by the rules before opset 7",
            node.label,
        )
    return into_weights(node, affine, adds_node=needs_add)


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


def _becomes_gemm(draft: Draft, node: Node) -> bool:
    """Gemm takes exactly rank 2, and its bias is optional or broadcasts without attributes only in newer opsets."""
    right = draft.constants.get(node.input(1))
    data = node.input(0)
    return (
        right is not None
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
    scale = _aligned_to_weight(affine.only_scale().compressed(), weight, slot, node)
    inputs = {slot: scaled(weight, scale, parameter_name(node, slot, "weight"))} if affine.scales else {}
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
    _closed(node, ("axis",))
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
    "Conv": Absorber(_accept_conv, _build_conv),
    "ConvTranspose": Absorber(_accept_conv_transpose, _build_conv_transpose),
    "Gemm": Absorber(_accept_gemm, _build_gemm),
    "MatMul": Absorber(_accept_matmul, _build_matmul),
    "Gather": Absorber(_accept_gather, _build_gather),
}
