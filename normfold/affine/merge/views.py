"""Linear operators as numbers: the weight as it lies in the file, and what acts behind it, in one form for all spellings.

A Conv is `y = s·(W * x) + b`, a MatMul or Gemm `y = s·(x @ W) + b`, where `s` and `b` hold everything that follows the
operator: its own bias, what its slot has collected, and the affines behind it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from normfold.affine.absorbers import ABSORBERS
from normfold.affine.algebra import Affine, per_channel
from normfold.affine.change import require_affordable, require_range, zeros
from normfold.affine.convolution import front_factor
from normfold.affine.draft import BORDER, UNIT_IN, UNIT_OUT, Draft, Merge, after_another
from normfold.affine.gemm import front_rows
from normfold.affine.reasons import Refused
from normfold.affine.window import WINDOW_ATTRIBUTES, Ints, Window, window_of
from normfold.model import attributes
from normfold.model.constants import Dequantised, float64
from normfold.model.graph import Node
from normfold.model.tensors import Float64, Formula, TensorSource

# No merged weight may have more elements, even with --aggressive: float64 takes eight bytes for each.
LARGEST_WEIGHT = 1 << 27
_DEEPEST = 16


@dataclass(frozen=True, slots=True, eq=False)
class Convolution:
    """A Conv with constant weights.

    Args:
        weight: shape `[Cout, Cin/group, *kernel]`.
        scale, bias: float64 of shape `[Cout]`.
    """

    node: Node
    weight: TensorSource
    window: Window
    group: int
    scale: Float64
    bias: Float64

    @property
    def outs(self) -> int:
        """Output channels."""
        return self.weight.dims[0]

    @property
    def ins(self) -> int:
        """Input channels."""
        return self.weight.dims[1] * self.group

    @property
    def parameters(self) -> int:
        """Numbers that it needs."""
        return parameters(self.weight.dims, self.bias)


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """A MatMul or Gemm with a constant right operand.

    Args:
        weight: shape `[K, N]`, or `[N, K]` if `transposed`.
        alpha: factor of the Gemm.
        scale, bias: float64 of shape `[N]`.
    """

    node: Node
    weight: TensorSource
    transposed: bool
    alpha: float
    scale: Float64
    bias: Float64

    @property
    def outs(self) -> int:
        """N."""
        return self.weight.dims[0 if self.transposed else 1]

    @property
    def ins(self) -> int:
        """K."""
        return self.weight.dims[1 if self.transposed else 0]

    @property
    def parameters(self) -> int:
        """Numbers that it needs."""
        return parameters(self.weight.dims, self.bias)

    def matrix(self) -> Float64:
        """`alpha·s·W` of shape `[K, N]`, in float64."""
        values = float64(self.weight)
        return (values.T if self.transposed else values) * (self.alpha * self.scale)

    def as_stored(self, matrix: Float64) -> Float64:
        """A `[K, N]` matrix in the layout of this operator's own weight."""
        return np.ascontiguousarray(matrix.T if self.transposed else matrix) / self.alpha


Operator = Convolution | Dense


def convolution(draft: Draft, node: Node, behind: Affine) -> Convolution:
    """A Conv, with everything that acts behind it.

    Raises:
        Refused: it is not what it should be, or not constant.
    """
    _require_known_attributes(node, (*WINDOW_ATTRIBUTES, "group"))
    if any(draft.pending(node, slot) is not None for slot in (BORDER, UNIT_IN, UNIT_OUT)):
        raise Refused("geometry", f"a fold has put a Pad or a channel before or behind {node.label!r}", node.label)
    weight = _with_front(_weight(draft, node), front_factor(draft, node))
    if len(weight.dims) < 3 or behind.rank != len(weight.dims) or 0 in weight.dims:
        raise Refused("ill-formed", f"the weight of {node.label!r} has shape {list(weight.dims)}", node.label)
    group, outs = int(draft.attribute(node, "group", 1)), weight.dims[0]
    if group < 1 or outs % group:
        raise Refused("ill-formed", f"group {group} does not divide {outs} channels", node.label)
    scale, shift = behind.vectors(1, outs)
    bias = np.zeros(outs) if node.input(2) is None else values(draft, node, 2)
    if bias.shape != (outs,):
        raise Refused("ill-formed", f"the bias of {node.label!r} has not {outs} values", node.label)
    require_range(behind, weight.data_type, node)
    return Convolution(node, weight, window_of(draft, node, weight.dims[2:]), group, scale, scale * bias + shift)


def dense(draft: Draft, node: Node, behind: Affine) -> Dense:
    """A MatMul or Gemm, with everything that acts behind it.

    Raises:
        Refused: as `convolution`.
    """
    gemm = node.op_type == "Gemm"
    _require_known_attributes(node, ("alpha", "beta", "transA", "transB", "broadcast") if gemm else ())
    weight = _with_front(_weight(draft, node), front_rows(draft, node))
    if behind.rank < 2:
        raise Refused("geometry", f"{node.label!r} multiplies a vector", node.label)
    if len(weight.dims) != 2 or 0 in weight.dims:
        raise Refused("ill-formed", f"the weight of {node.label!r} has shape {list(weight.dims)}", node.label)
    transposed = gemm and bool(attributes.get(node, "transB", 0))
    outs = weight.dims[0 if transposed else 1]
    scale, shift = behind.vectors(behind.rank - 1, outs)
    require_range(behind, weight.data_type, node)
    alpha = float(np.float32(attributes.get(node, "alpha", 1.0))) if gemm else 1.0
    if not alpha or not np.isfinite(alpha):
        raise Refused("ill-formed", f"Gemm {node.label!r} multiplies by {alpha:g}", node.label)
    return Dense(node, weight, transposed, alpha, scale, scale * _gemm_bias(draft, node, outs) + shift)


def _gemm_bias(draft: Draft, node: Node, outs: int) -> Float64:
    """`beta·C` of shape `[N]`."""
    if node.op_type != "Gemm" or node.input(2) is None:
        return np.zeros(outs)
    dims = draft.parameter(node, 2).dims
    if dims not in ((), (1,), (outs,), (1, 1), (1, outs)):
        raise Refused("not-per-channel", f"C of {node.label!r} has shape {list(dims)}", node.label)
    beta = float(np.float32(attributes.get(node, "beta", 1.0)))
    return beta * np.broadcast_to(values(draft, node, 2).reshape(-1), (outs,))


def _require_known_attributes(node: Node, known: Sequence[str]) -> None:
    strange = attributes.unexpected(node, known)
    if strange:
        raise Refused("unknown-attribute", f"attribute {strange!r} of {node.label!r}", node.label)


def _weight(draft: Draft, node: Node) -> TensorSource:
    weight = draft.parameter(node, 1)
    if isinstance(weight, Dequantised):
        raise Refused("quantised", f"the weight of {node.label!r} is quantised, and would become floats", node.label)
    require_affordable(draft, node, 1, weight)
    return weight


def _with_front(weight: TensorSource, factor: Float64 | None) -> TensorSource:
    """The weight with what the operator has collected in front of it."""
    if factor is None:
        return weight
    depth = 1 + (weight.depth if isinstance(weight, Formula) else 0)
    return Formula(lambda: float64(weight) * factor, weight.data_type, weight.dims, depth)


def values(draft: Draft, node: Node, slot: int) -> Float64:
    """A constant operand in float64.

    Raises:
        Refused: `non-finite`.
    """
    found = float64(draft.parameter(node, slot))
    if not np.isfinite(found).all():
        raise Refused("non-finite", f"a parameter of {node.label!r} is not finite", node.label)
    return found


def parameters(dims: Ints, bias: Float64) -> int:
    """Numbers of a weight and of its bias, if there is one."""
    return math.prod(dims) + (bias.size if bias.any() else 0)


def computed(formula: Callable[[], Float64], operators: Sequence[Operator], dims: Ints) -> Formula:
    """A weight made of the weights of several operators, all of one element type.

    A formula over formulas over formulas would be a deep recursion: from some depth on its values are kept instead.

    Raises:
        Refused: `ill-formed`, the element types differ.
    """
    first = operators[0]
    for other in operators:
        if other.weight.data_type != first.weight.data_type:
            labels = f"{first.node.label!r} and {other.node.label!r}"
            raise Refused("ill-formed", f"the weights of {labels} differ in type", other.node.label)
    depth = 1 + max(operator.weight.depth if isinstance(operator.weight, Formula) else 0 for operator in operators)
    lazy = Formula(formula, first.weight.data_type, dims, depth)
    if depth < _DEEPEST:
        return lazy
    kept = lazy.array().astype(np.float64, copy=False)
    return Formula(lambda: kept, lazy.data_type, dims)


def require_worth(before: int, after: int, kept: Node, *, aggressive: bool, positions_grow: bool = False) -> str:
    """A merge must not cost parameters or multiplications, unless that is asked for.

    With parameters that do not grow, multiplications do not grow either: they are parameters times output positions, and
    the merged operator works on no more positions than the larger of those that it replaces, unless `positions_grow`.

    Returns:
        What grows, "" for nothing.

    Raises:
        Refused: `cost`.
    """
    grown = f"{after} parameters instead of {before}" if after > before else ""
    if positions_grow and not grown:
        grown = "more output positions than before"
    if after > LARGEST_WEIGHT or (grown and not aggressive):
        hint = "" if after > LARGEST_WEIGHT else " (--aggressive merges them all the same)"
        raise Refused("cost", f"one {kept.op_type} would need {grown or f'{after} parameters'}{hint}", kept.label)
    return grown


def bias_affine(bias: Float64, rank: int, axis: int) -> Affine:
    """What the slot of a merged operator holds from the start: its bias.

    Raises:
        Refused: `non-finite`.
    """
    if not np.isfinite(bias).all():
        raise Refused("non-finite", "the merged bias is not finite")
    return per_channel(np.ones(1), bias, rank, axis)


def replaced(node: Node, weight: TensorSource, outs: int) -> dict[int, TensorSource]:
    """The input slots of a merged operator: the weight, and zeros in the place of a bias."""
    found: dict[int, TensorSource] = {1: weight}
    if node.input(2) is not None:
        found[2] = zeros((outs,), weight.data_type)
    return found


def require_accepted(draft: Draft, merge: Merge) -> None:
    """The operator that stays must be able to take the bias.

    Raises:
        Refused: with the reason of the operator.
    """
    key, before = id(merge.kept), draft.merges.get(id(merge.kept))
    draft.merges[key] = merge if before is None else after_another(before, merge)
    try:
        accept = ABSORBERS[merge.kept.op_type].accept
        assert accept is not None
        accept(draft, merge.kept, merge.affine)
    finally:
        del draft.merges[key]
        if before is not None:
            draft.merges[key] = before
