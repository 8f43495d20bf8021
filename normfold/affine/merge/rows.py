"""Two linear operators in a row become one.

Conv, then Conv 1x1 without padding    W = W2·W1, contracted over the channels in between; b = W2·b1 + b2;
                                       strides multiply, padding and dilations are those of the first
Conv 1x1, then Conv                    W[o, i, k] = Σ_m W2[o, m, k]·W1[m, i]; exact if the second has no padding or b1 = 0
MatMul or Gemm, then MatMul or Gemm    W = W1·W2, b = b1·W2 + b2

Where both Convs are grouped, the greatest common divisor of the groups is left; within it the weights become dense.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from normfold.affine.algebra import Affine, uniform
from normfold.affine.draft import Draft, Merge
from normfold.affine.merge.branch import DENSE, Allowed, Branch, Summand, has_weights, total, trace
from normfold.affine.merge.views import (
    Convolution,
    Operator,
    bias_affine,
    computed,
    convolution,
    dense,
    replaced,
    require_accepted,
    require_worth,
)
from normfold.affine.merge.weights import before_point, behind_point, carried_bias, product
from normfold.affine.reasons import Refused
from normfold.affine.window import Ints, Window, window_attributes
from normfold.model.graph import Node, Use


def merge_rows(draft: Draft, second: Node, allowed: Allowed, *, aggressive: bool) -> Merge | None:
    """One operator for `second` and the one that feeds it; None if they are no candidates.

    Args:
        draft: the edits so far.
        second: a Conv, MatMul or Gemm.
        allowed: whether an affine node may be taken away.
        aggressive: whether parameters may grow.

    Raises:
        Refused: both are linear with constant weights, but they cannot be merged.
    """
    if not has_weights(draft, second):
        return None
    first = trace(draft, Summand(Use(second, 0), 1.0), allowed)
    if first is None or not has_weights(draft, first.operator) or first.operator is None:
        return None
    if (first.operator.op_type == "Conv") != (second.op_type == "Conv"):
        return None
    build = _matrices if second.op_type in DENSE else _convolutions
    try:
        merge = build(draft, first, second, aggressive=aggressive)
    except Refused as reason:
        if first.problem not in (None, reason):
            return None  # more than one thing is in the way: nobody would have expected a merge here
        raise
    if merge is not None:
        require_accepted(draft, merge)
    return merge


def _parameters(first: Operator, second: Operator, dims: Ints) -> tuple[int, int]:
    """Numbers that they need before and after.

    The bias of the second operator counts on neither side: in one file it is its own, in another it is an Add behind it,
    and the answer must be the same.
    """
    before = first.parameters + math.prod(second.weight.dims)
    return before, math.prod(dims) + (second.outs if first.bias.any() else 0)


def _require_private(branch: Branch) -> None:
    if branch.problem is not None:
        raise branch.problem


def _behind(draft: Draft, second: Node) -> Branch:
    """The second operator as a branch of its own."""
    rank = draft.shapes.rank(second.output)
    if rank is None:
        raise Refused("shape-unknown", f"the rank of {second.output.name!r} is not known", second.label)
    return Branch(second, second.output, uniform(1.0, 0.0, rank), ())


# --- Conv ------------------------------------------------------------------------------------------------------------


def _convolutions(draft: Draft, branch: Branch, node: Node, *, aggressive: bool) -> Merge | None:
    assert branch.operator is not None
    if not any(all(size == 1 for size in draft.parameter(conv, 1).dims[2:]) for conv in (branch.operator, node)):
        return None  # two real kernels would make a larger one
    first = convolution(draft, branch.operator, total(draft, branch))
    second = convolution(draft, node, total(draft, _behind(draft, node)))
    if first.outs != second.ins:
        raise Refused("ill-formed", f"{first.outs} channels for {second.ins} of {node.label!r}", node.label)
    last = second.window.is_point
    window = _window(first, second)
    group = math.gcd(first.group, second.group)
    dims = (second.outs, first.ins // group, *window.kernel)
    before, after = _parameters(first, second, dims)
    larger = not last and second.window.grows
    growth = require_worth(before, after, node, aggressive=aggressive, positions_grow=larger)
    _require_private(branch)
    bias = carried_bias(second, first.bias) + second.bias if first.bias.any() else second.bias
    formula = before_point if last else behind_point
    weight = computed(lambda: formula(first, second, group), [first, second], dims)
    return Merge(
        first.node,
        node,
        branch.chain,
        replaced(first.node, weight, second.outs),
        bias_affine(bias, len(dims), 1),
        window_attributes(first.window, window, group if group != first.group else None),
        growth,
    )


def _window(first: Convolution, second: Convolution) -> Window:
    """The window of both.

    Raises:
        Refused: `geometry`, neither has one tap and no padding; `shift-blocked`.
    """
    if second.window.is_point:
        strides = zip(first.window.strides, second.window.strides, strict=True)
        return replace(first.window, strides=tuple(a * b for a, b in strides))
    if not first.window.is_point or any(stride != 1 for stride in first.window.strides):
        raise Refused(
            "geometry", "neither Conv is 1x1 without padding (a first one without strides)", second.node.label
        )
    if second.window.is_padded and first.bias.any():
        raise Refused(
            "shift-blocked",
            f"the padding of {second.node.label!r} does not see the bias in front of it",
            first.node.label,
        )
    return second.window


# --- MatMul and Gemm -------------------------------------------------------------------------------------------------


def _matrices(draft: Draft, branch: Branch, node: Node, *, aggressive: bool) -> Merge:
    assert branch.operator is not None
    first = dense(draft, branch.operator, total(draft, branch))
    behind = total(draft, _behind(draft, node))
    second = dense(draft, node, behind.only_scale().compressed())
    if first.outs != second.ins or draft.attribute(node, "transA", 0):
        raise Refused("geometry", f"{node.label!r} does not multiply the last axis", node.label)
    stored = (second.outs, first.ins) if first.transposed else (first.ins, second.outs)
    before, after = _parameters(first, second, stored)
    growth = require_worth(before, after, node, aggressive=aggressive)
    _require_private(branch)
    bias = product(first.bias.reshape(1, -1), second.matrix())[0] + second.bias if first.bias.any() else second.bias
    # What is added behind the second may vary along any axis, as long as it stays an Add.
    affine = bias_affine(bias, behind.rank, behind.rank - 1).then(Affine(np.ones_like(behind.scale), behind.shift))
    formula = lambda: first.as_stored(product(first.matrix(), second.matrix()))  # noqa: E731
    weight = computed(formula, [first, second], stored)
    parts = replaced(first.node, weight, second.outs)
    return Merge(first.node, node, branch.chain, parts, affine.compressed(), growth=growth)
