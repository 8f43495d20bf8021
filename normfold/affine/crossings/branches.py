"""Crossings of elementwise operators with several operands: sums, products, extrema."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normfold.affine.algebra import Affine, uniform
from normfold.affine.change import closed, require_normal_factors
from normfold.affine.crossings.base import (
    Carried,
    Crossing,
    Passed,
    Way,
    dims_before,
    dims_behind,
    inverse,
    lifted,
    no_negative,
    no_shift,
    same,
)
from normfold.affine.crossings.operands import absorb_operand
from normfold.affine.draft import Absorption, Draft
from normfold.affine.reasons import Refused
from normfold.affine.recognise import operand_values
from normfold.model import dtypes
from normfold.model.graph import Node, Use, Value

# Operands of one sum that are tried for the shift; every try looks at all operands.
_TARGETS = 16


def _closed_elementwise(node: Node) -> None:
    closed(node)
    if node.scope.version < 7 and node.op_type != "Sum":
        raise Refused("unknown-attribute", f"{node.label!r} broadcasts by the rules before opset 7", node.label)
    if None in node.inputs:
        raise Refused("ill-formed", f"{node.label!r} lacks an input", node.label)


def _is_constant(draft: Draft, node: Node, operand: int) -> bool:
    return draft.constants.get(node.inputs[operand]) is not None


def _subtracted(node: Node, operand: int) -> bool:
    return node.op_type == "Sub" and operand == 1


# --- sums, backward --------------------------------------------------------------------------------------------------


def _sum_backward(draft: Draft, node: Node, slot: int, affine: Affine) -> Iterator[Way]:
    """`s·(Σ xᵢ) + t`: the scale goes into every branch, the shift into one; a subtrahend takes `-t`."""
    _closed_elementwise(node)
    operands = range(len(node.inputs))
    constant = [o for o in operands if _is_constant(draft, node, o)]
    order = [*constant, *(o for o in operands if o not in constant)] if affine.shifts else [0]
    problem: Refused | None = None
    for target in order[:_TARGETS]:
        try:
            yield _sum_way(draft, node, affine, target if affine.shifts else -1)
        except Refused as reason:
            problem = problem or reason
    if problem is not None:
        raise problem


def _sum_way(draft: Draft, node: Node, affine: Affine, target: int) -> Way:
    onward: list[tuple[Use, Affine]] = []
    absorbed: list[Absorption] = []
    for operand, value in enumerate(node.inputs):
        assert value is not None
        part = affine.only_scale()
        if operand == target:
            part = Affine(affine.scale, -affine.shift if _subtracted(node, operand) else affine.shift)
        _place(draft, node, operand, value, part, onward, absorbed)
    return Way(tuple(onward), tuple(absorbed))


def _place(
    draft: Draft,
    node: Node,
    operand: int,
    value: Value,
    part: Affine,
    onward: list[tuple[Use, Affine]],
    absorbed: list[Absorption],
) -> None:
    """One operand takes an affine: a constant on the spot, data further up."""
    if part.is_identity:
        return
    if draft.constants.get(value) is not None:
        absorbed.append(absorb_operand(draft, node, operand, part))
    else:
        onward.append((Use(node, operand), _restricted(draft, node, operand, part)))


def _restricted(draft: Draft, node: Node, operand: int, affine: Affine) -> Affine:
    """The affine for an operand that the operator may stretch.

    Raises:
        Refused: `branch`, the operand has size 1 where the affine varies, so it cannot take different values.
    """
    dims = dims_before(draft, node, operand)
    lead = affine.rank - len(dims)
    for axis in affine.varying:
        size = dims[axis - lead] if axis >= lead else 1
        if size == 1:
            raise Refused("branch", f"operand {operand} of {node.label!r} is broadcast along the channels", node.label)
        if size != affine.shape[axis]:
            raise Refused(
                "shape-unknown", f"the channels of operand {operand} of {node.label!r} are not known", node.label
            )
    return Affine(*(part.reshape(part.shape[lead:]) for part in (affine.scale, affine.shift)))


# --- sums, forward ---------------------------------------------------------------------------------------------------


def _sum_forward(draft: Draft, node: Node, carried: Carried) -> Passed:
    """Shifts add up; a scale passes if every data operand carries the same, and constants are divided by it."""
    _closed_elementwise(node)
    rank = len(dims_behind(draft, node))
    parts = {operand: lifted(affine, rank) for operand, affine in carried.items()}
    scale = _common_scale(draft, node, parts)
    shift = np.zeros((1,) * rank)
    for operand, part in parts.items():
        shift = shift - part.shift if _subtracted(node, operand) else shift + part.shift
    absorbed = _divided_constants(draft, node, Affine(scale, np.zeros((1,) * rank)))
    return Passed({0: Affine(scale, shift).compressed()}, absorbed)


def _common_scale(draft: Draft, node: Node, parts: Carried) -> np.ndarray:
    """The scale that all data operands carry.

    Raises:
        Refused: `branch`, they carry different ones, or one carries none.
    """
    first = next(iter(parts.values())).scale
    data = [operand for operand in range(len(node.inputs)) if not _is_constant(draft, node, operand)]
    for operand in data:
        other = parts[operand].scale if operand in parts else np.ones((1,) * first.ndim)
        if not same(first, other):
            raise Refused("branch", f"the operands of {node.label!r} do not carry the same scale", node.label)
    return first


def _divided_constants(draft: Draft, node: Node, factor: Affine) -> tuple[Absorption, ...]:
    """Constant operands before a common factor is taken out."""
    if not factor.scales:
        return ()
    undone = inverse(factor, node)
    constant = [operand for operand in range(len(node.inputs)) if _is_constant(draft, node, operand)]
    return tuple(absorb_operand(draft, node, operand, undone) for operand in constant)


# --- products --------------------------------------------------------------------------------------------------------


def _product_backward(draft: Draft, node: Node, slot: int, affine: Affine) -> Iterator[Way]:
    """`s·(x·y) = (s·x)·y`: exactly one operand takes the scale; of a Div, the dividend."""
    _closed_elementwise(node)
    no_shift(node, affine)
    candidates = [0] if node.op_type == "Div" else [0, 1]
    candidates.sort(key=lambda operand: not _is_constant(draft, node, operand))
    problem: Refused | None = None
    for operand in candidates:
        value = node.inputs[operand]
        assert value is not None
        onward: list[tuple[Use, Affine]] = []
        absorbed: list[Absorption] = []
        try:
            _place(draft, node, operand, value, affine, onward, absorbed)
        except Refused as reason:
            problem = problem or reason
            continue
        yield Way(tuple(onward), tuple(absorbed))
    if problem is not None:
        raise problem


def _product_forward(draft: Draft, node: Node, carried: Carried) -> Passed:
    """Scales multiply (a divisor's divides); a shift passes only a constant factor, and is multiplied by it."""
    _closed_elementwise(node)
    rank = len(dims_behind(draft, node))
    result = uniform(1.0, 0.0, rank)
    _require_normal(draft, node, carried, rank)
    for operand, affine in carried.items():
        part = lifted(affine, rank)
        if node.op_type == "Div" and operand == 1:
            no_shift(node, part)
            part = inverse(part, node)
        elif part.shifts:
            part = _through_factor(draft, node, operand, part)
        result = Affine(result.scale * part.scale, result.shift + part.shift)
    return Passed({0: result.compressed()})


def _require_normal(draft: Draft, node: Node, carried: Carried, rank: int) -> None:
    """Moving a factor past another changes what lies in between, which must not leave the range."""
    kind = draft.shapes.data_type(node.output)
    if kind is None or not dtypes.is_float(kind):
        raise Refused("shape-unknown", f"the element type of {node.output.name!r} is not known", node.label)
    factors = [affine.scale for affine in carried.values()]
    constant = [operand for operand in range(2) if _is_constant(draft, node, operand)]
    factors += [operand_values(draft, node, operand, rank) for operand in constant]
    require_normal_factors(factors, kind)


def _through_factor(draft: Draft, node: Node, operand: int, part: Affine) -> Affine:
    """A shift behind a constant factor or divisor.

    Raises:
        Refused: `shift-blocked`, the other operand is data.
    """
    other = 1 - operand
    if not _is_constant(draft, node, other):
        raise Refused("shift-blocked", f"{node.op_type} {node.label!r} multiplies two data tensors", node.label)
    factor = operand_values(draft, node, other, part.rank)
    if node.op_type == "Div":
        if (factor == 0).any():
            raise Refused("non-finite", f"{node.label!r} divides by a constant 0", node.label)
        factor = 1.0 / factor
    return Affine(part.scale, part.shift * factor)


# --- extrema ---------------------------------------------------------------------------------------------------------


def _extremum_backward(draft: Draft, node: Node, slot: int, affine: Affine) -> Iterator[Way]:
    """`s·max(x, y) + t = max(s·x + t, s·y + t)` for `s > 0`: every operand takes the whole."""
    _closed_elementwise(node)
    no_negative(node, affine, allow_zero=False)
    onward: list[tuple[Use, Affine]] = []
    absorbed: list[Absorption] = []
    for operand, value in enumerate(node.inputs):
        assert value is not None
        _place(draft, node, operand, value, affine, onward, absorbed)
    yield Way(tuple(onward), tuple(absorbed))


def _extremum_forward(draft: Draft, node: Node, carried: Carried) -> Passed:
    """All data operands carry the same `s > 0` and `t`; constants are taken to the other side."""
    _closed_elementwise(node)
    rank = len(dims_behind(draft, node))
    first, *others = (lifted(affine, rank) for affine in carried.values())
    data = sum(not _is_constant(draft, node, operand) for operand in range(len(node.inputs)))
    if len(carried) != data or not all(
        same(first.scale, other.scale) and same(first.shift, other.shift) for other in others
    ):
        raise Refused("branch", f"the operands of {node.label!r} do not carry the same affine", node.label)
    no_negative(node, first, allow_zero=False)
    undone = inverse(first, node)
    constant = [operand for operand in range(len(node.inputs)) if _is_constant(draft, node, operand)]
    return Passed({0: first}, tuple(absorb_operand(draft, node, operand, undone) for operand in constant))


_SUM = Crossing(_sum_backward, _sum_forward)
_PRODUCT = Crossing(_product_backward, _product_forward)
_EXTREMUM = Crossing(_extremum_backward, _extremum_forward)
ROWS: dict[str, Crossing] = {
    "Add": _SUM,
    "Sub": _SUM,
    "Sum": _SUM,
    "Mul": _PRODUCT,
    "Div": _PRODUCT,
    "Max": _EXTREMUM,
    "Min": _EXTREMUM,
}
