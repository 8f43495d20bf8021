"""Crossings of elementwise functions: what commutes with `max`, with `abs`, and with a slope."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normfold.affine.algebra import Affine, uniform
from normfold.affine.change import Change, NewParameter, closed, data_only, parameter_name, require_range
from normfold.affine.crossings.base import (
    Carried,
    Crossing,
    Direction,
    Passed,
    Way,
    dims_before,
    dims_behind,
    inverse,
    no_negative,
    no_shift,
    one_to_one,
    to_input,
)
from normfold.affine.crossings.operands import build_operand
from normfold.affine.draft import Absorption, Draft, Slot
from normfold.affine.reasons import Refused
from normfold.model import attributes, dtypes
from normfold.model.graph import Node, Use
from normfold.model.tensors import Values

# --- homogeneous: f(s·x) = s·f(x) for s ≥ 0 --------------------------------------------------------------------------


def _homogeneous(draft: Draft, node: Node, affine: Affine, direction: Direction) -> Affine:
    """LeakyRelu, PRelu: `s·f(x) = f(s·x)` for `s ≥ 0`."""
    closed(node, ("alpha", "consumed_inputs"))
    no_shift(node, affine)
    no_negative(node, affine, allow_zero=True)
    if node.op_type == "PRelu":
        _require_unstretched(draft, node)
    return affine


def _require_unstretched(draft: Draft, node: Node) -> None:
    """Runtimes let a slope stretch the data, which then cannot take different values along that axis."""
    if dims_behind(draft, node) != dims_before(draft, node):
        raise Refused("branch", f"the slope of {node.label!r} may be larger than its data", node.label)


def _absolute(draft: Draft, node: Node, affine: Affine, direction: Direction) -> Affine:
    """`abs(s·x) = abs(s)·abs(x)`; backward only a non-negative scale has such an origin."""
    closed(node, ("consumed_inputs",))
    no_shift(node, affine)
    if direction is Direction.BACKWARD:
        no_negative(node, affine, allow_zero=True)
        return affine
    return Affine(np.abs(affine.scale), affine.shift)


# --- Relu as a clamp -------------------------------------------------------------------------------------------------

LOWER_BOUND = 1  # the input that a Relu gets when it becomes Max(x, bound)
_MAX_BROADCASTS = 8  # the opset since which Max broadcasts; bfloat16 came with 13
_MAX_BFLOAT16 = 13


def _relu_backward(draft: Draft, node: Node, slot: int, affine: Affine) -> Iterator[Way]:
    if _bound(draft, node) is None:
        yield to_input(node, _homogeneous(draft, node, affine, Direction.BACKWARD))
        return
    no_negative(node, affine, allow_zero=False)  # it is a Max(x, bound) by now, whose bound moves along
    yield Way(((Use(node, 0), affine),), (Absorption(Slot(node, LOWER_BOUND), affine),))


def _relu_forward(draft: Draft, node: Node, carried: Carried) -> Passed:
    """`relu(s·x + t) = s·max(x, -t/s) + t` for `s > 0`: the Relu becomes one Max, and everything moves on.

    A channel with `s = 0` is the constant `max(t, 0)`, whatever its bound.
    """
    affine, bound = data_only(node, carried), _bound(draft, node)
    if bound is None and not affine.shifts:
        return Passed({0: _homogeneous(draft, node, affine, Direction.FORWARD)})
    closed(node, ("consumed_inputs",))
    no_negative(node, affine, allow_zero=bound is None)
    kind = draft.shapes.data_type(node.output)
    if kind is None or node.scope.version < (_MAX_BFLOAT16 if kind == dtypes.BFLOAT16 else _MAX_BROADCASTS):
        raise Refused("shift-blocked", f"no shift passes Relu {node.label!r} at this opset", node.label)
    dead = np.broadcast_to(affine.scale == 0, affine.shape)
    scale = np.where(dead, 1.0, affine.scale)
    limit = ((0.0 if bound is None else bound.shift) - affine.shift) / scale
    limit = np.where(dead, 0.0, limit)
    shift = np.where(dead, np.maximum(affine.shift, 0.0), affine.shift)
    new = Affine(np.zeros((1,) * affine.rank), limit).compressed()
    require_range(new, kind, node)
    return Passed({0: Affine(affine.scale, shift).compressed()}, (Absorption(Slot(node, LOWER_BOUND), new),))


def _bound(draft: Draft, node: Node) -> Affine | None:
    return draft.pending(node, LOWER_BOUND)


def build_lower_bound(draft: Draft, node: Node, affine: Affine) -> Change:
    """The Relu that became `Max(x, bound)`; a bound is always replaced as a whole."""
    kind = draft.shapes.data_type(node.output)
    assert kind is not None, "`_relu_forward` refuses data of unknown type"
    values = affine.shift
    dims = values.shape[next((i for i, size in enumerate(values.shape) if size != 1), values.ndim) :]
    bound = NewParameter(Values(values.reshape(dims), kind), kind, dims, parameter_name(node, LOWER_BOUND, "bound"))
    return Change(node, {LOWER_BOUND: bound}, attributes=dict.fromkeys(node.attributes), op_type="Max")


# --- Clip ------------------------------------------------------------------------------------------------------------

CLIP_BOUNDS = {1: "min", 2: "max"}


def _clip_bounds(draft: Draft, node: Node, affine: Affine, on_bounds: Affine) -> tuple[Absorption, ...]:
    """What the bounds take when a uniform affine with `s > 0` moves past."""
    closed(node, ("min", "max"))
    if not affine.is_uniform:
        raise Refused("not-per-channel", f"Clip {node.label!r} has one pair of bounds for all channels", node.label)
    no_negative(node, affine, allow_zero=False)
    scalar = uniform(float(on_bounds.scale.reshape(-1)[0]), float(on_bounds.shift.reshape(-1)[0]), 0)
    bounds = [
        operand for operand, name in CLIP_BOUNDS.items() if node.input(operand) is not None or name in node.attributes
    ]
    for operand in bounds:
        if node.input(operand) is not None:
            require_range(on_bounds, draft.parameter(node, operand).data_type, node)
        elif draft.shapes.data_type(node.output) in (None, dtypes.DOUBLE):
            raise Refused(
                "dtype-range", f"the bounds of {node.label!r} are float32 attributes of wider data", node.label
            )
        else:
            require_range(on_bounds, dtypes.FLOAT, node)
    return tuple(Absorption(Slot(node, operand), scalar) for operand in bounds)


def _clip_backward(draft: Draft, node: Node, slot: int, affine: Affine) -> Iterator[Way]:
    """`s·clip(x, lo, hi) + t = clip(s·x + t, s·lo + t, s·hi + t)`."""
    yield Way(((Use(node, 0), affine),), _clip_bounds(draft, node, affine, affine))


def _clip_forward(draft: Draft, node: Node, carried: Carried) -> Passed:
    """`clip(s·x + t, lo, hi) = s·clip(x, (lo - t)/s, (hi - t)/s) + t`."""
    affine = data_only(node, carried)
    no_negative(node, affine, allow_zero=False)
    return Passed({0: affine}, _clip_bounds(draft, node, affine, inverse(affine, node)))


def build_clip_bound(draft: Draft, node: Node, operand: int, affine: Affine) -> Change:
    """A bound `b` becomes `s·b + t`: an attribute before opset 11, an input since."""
    if node.input(operand) is not None:
        return build_operand(draft, node, operand, affine)
    name = CLIP_BOUNDS[operand]
    return Change(
        node, attributes={name: float(affine.scale) * float(attributes.get(node, name, 0.0)) + float(affine.shift)}
    )


ROWS: dict[str, Crossing] = {
    "Relu": Crossing(_relu_backward, _relu_forward),
    "LeakyRelu": one_to_one(_homogeneous),
    "PRelu": one_to_one(_homogeneous),
    "Abs": one_to_one(_absolute),
    "Clip": Crossing(_clip_backward, _clip_forward),
}
