"""The absorber Gemm, `alpha·A'·B' + beta·C`.

Behind, with `(s, t)`: the columns of B take `s`, and `C' = s·beta·C + t` with `beta' = 1`. In front, with `A = s·A' + t` along
the axis that is summed over: the rows of B take `s`, and `alpha·t·B` is a shift behind. There is no padding, so always.
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
from normfold.affine.draft import INPUT, Absorption, Draft
from normfold.affine.reasons import Refused
from normfold.model import attributes, dtypes
from normfold.model.graph import Node
from normfold.model.tensors import Float64, TensorSource

_GEMM_ATTRIBUTES = ("alpha", "beta", "transA", "transB", "broadcast")


def _accept_gemm(draft: Draft, node: Node, affine: Affine) -> Absorption:
    closed(node, _GEMM_ATTRIBUTES)
    if affine.is_uniform and not affine.shifts and not _constant_columns(draft, node):
        return _accept_gemm_uniform(draft, node, affine)
    weight = draft.parameter(node, 1)
    if len(weight.dims) != 2:
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


GEMM = Absorber(_accept_gemm, _build_gemm, _accept_gemm_forward)
