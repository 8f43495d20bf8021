"""Parallel linear branches whose results are added become one operator: RepVGG, MobileOne and kin.

    Conv_W1(x) + Conv_W2(x) + (s·x + t) + AveragePool(x)  ->  Conv_W(x)

Every kernel is embedded at its offset in the smallest one that holds them all; x itself is the kernel
`W[o, o mod (Cin/g)] = s[o]` with one tap, an AveragePool the same with `1/Πk` at each of its taps. Weights add, biases add.
MatMul and Gemm on one input add likewise, and x itself is a diagonal matrix.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from normfold.affine.change import require_range
from normfold.affine.draft import Draft, Merge
from normfold.affine.merge.branch import CONVOLUTION, Allowed, Branch, has_weights, summands, total, trace
from normfold.affine.merge.views import (
    Convolution,
    Dense,
    bias_affine,
    computed,
    convolution,
    dense,
    replaced,
    require_accepted,
    require_worth,
)
from normfold.affine.merge.weights import Diagonal, Kernel, summed
from normfold.affine.merge.window import Window, hull, offsets, point, pooling_window
from normfold.affine.reasons import Refused
from normfold.model.graph import Node, Value
from normfold.model.tensors import Float64


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """The summands of one tree, all of them linear in one tensor."""

    root: Node
    inner: tuple[Node, ...]
    branches: tuple[Branch, ...]

    def merge(self, kept: Node, **parts: object) -> Merge:
        """The merge that leaves `kept`."""
        gone = dict.fromkeys(node for branch in self.branches for node in branch.nodes)
        dropped = (*self.inner, *(node for node in gone if node is not kept))
        return Merge(kept, self.root, dropped, **parts)  # type: ignore[arg-type]


def merge_branches(draft: Draft, root: Node, allowed: Allowed, *, aggressive: bool) -> Merge | None:
    """One operator for the tree of sums that ends in `root`; None if it is no candidate.

    Args:
        draft: the edits so far.
        root: a sum, see `is_sum`.
        allowed: whether an affine node may be taken away.
        aggressive: whether parameters may grow.

    Raises:
        Refused: at least two branches start from one tensor, but they cannot be merged.
    """
    leaves, inner = summands(draft, root)
    branches = [trace(draft, leaf, allowed) for leaf in leaves]
    known = [branch for branch in branches if branch is not None]
    chosen = _common(draft, known)
    if chosen is None or len(known) != len(branches):
        return None
    data, members = chosen
    if len(members) < len(known):
        other = next(b for b in known if not any(b.value is member.value for member in members))
        raise Refused("branch", f"{other.label!r} does not start from {data.name!r} as others do", other.label)
    problem = next((member.problem for member in members if member.problem is not None), None)
    if problem is not None:
        raise problem
    family = Family(root, tuple(inner), tuple(members))
    build = _convolutions if any(_is_convolution(member) for member in members) else _matrices
    merge = build(draft, family, aggressive=aggressive)
    require_accepted(draft, merge)
    return merge


def _is_convolution(branch: Branch) -> bool:
    return branch.operator is not None and branch.operator.op_type in CONVOLUTION


def _common(draft: Draft, branches: Sequence[Branch]) -> tuple[Value, list[Branch]] | None:
    """The tensor from which most branches start, with those; None if no two do, or none of them has weights."""
    best: tuple[Value, list[Branch]] | None = None
    for start in {id(v): v for v in (b.data(draft) for b in branches if has_weights(draft, b.operator))}.values():
        members = [found for b in branches if (found := _from(draft, b, start)) is not None]
        if len(members) > 1 and (best is None or len(members) > len(best[1])):
            best = (start, members)
    return best


def _from(draft: Draft, branch: Branch, start: Value) -> Branch | None:
    """How a branch starts from a tensor: through its operator, or because the tensor itself is added."""
    if branch.value is start:
        return branch.without_operator()
    return branch if branch.operator is not None and branch.data(draft) is start else None


# --- Conv, AveragePool and identity ----------------------------------------------------------------------------------


def _convolutions(draft: Draft, family: Family, *, aggressive: bool) -> Merge:
    convs = {
        id(branch): convolution(draft, node, total(draft, branch))
        for branch in family.branches
        if (node := _conv(branch)) is not None
    }
    first = next(iter(convs.values()))
    windows = [convs[id(b)].window if id(b) in convs else _window(draft, b, first) for b in family.branches]
    _require_alike(list(convs.values()), family.branches, convs)
    target = hull(windows, [branch.label for branch in family.branches])
    parts = [_part(draft, b, w, target, convs.get(id(b)), first) for b, w in zip(family.branches, windows, strict=True)]
    bias = np.sum([part[1] for part in parts], axis=0)
    dims = (first.outs, first.ins // first.group, *target.kernel)
    kept = next((c for c in convs.values() if c.window == target), first)
    passing = sum(_bias_size(part[1]) for part in parts if isinstance(part[0], Diagonal))
    before = sum(c.parameters for c in convs.values()) + passing
    growth = require_worth(before, math.prod(dims) + _bias_size(bias), kept.node, aggressive=aggressive)
    terms = [part[0] for part in parts]
    weight = computed(lambda: summed(terms, dims), list(convs.values()), dims)
    return family.merge(
        kept.node,
        parameters=replaced(kept.node, weight, first.outs),
        affine=bias_affine(bias, len(dims), 1),
        attributes=window_attributes(kept.window, target),
        growth=growth,
    )


def _conv(branch: Branch) -> Node | None:
    """The Conv of a branch; None for an AveragePool and for the tensor itself."""
    node = branch.operator
    if node is not None and node.op_type not in CONVOLUTION:
        raise Refused("geometry", f"{node.op_type} {node.label!r} cannot be added to a Conv", node.label)
    return None if node is None or node.op_type != "Conv" else node


def _window(draft: Draft, branch: Branch, first: Convolution) -> Window:
    return point(len(first.window.kernel)) if branch.operator is None else pooling_window(draft, branch.operator)


def _require_alike(convs: Sequence[Convolution], branches: Sequence[Branch], known: dict[int, Convolution]) -> None:
    """One group, one number of outputs, and as many inputs where channels pass as they are.

    Raises:
        Refused: `geometry`.
    """
    first = convs[0]
    for other in convs:
        if (other.group, other.outs, other.ins) != (first.group, first.outs, first.ins):
            raise Refused("geometry", f"{other.node.label!r} has other channels or groups", other.node.label)
    passing = next((branch for branch in branches if id(branch) not in known), None)
    if passing is not None and first.ins != first.outs:
        raise Refused("geometry", f"{passing.label!r} has {first.ins} channels, not {first.outs}", passing.label)


def _part(
    draft: Draft, branch: Branch, window: Window, target: Window, conv: Convolution | None, first: Convolution
) -> tuple[Kernel | Diagonal, Float64]:
    """Kernel and bias of one branch."""
    offset = offsets(window, target)
    if conv is not None:
        return Kernel(conv.weight, conv.scale, offset), conv.bias
    affine = total(draft, branch)
    require_range(affine, first.weight.data_type, first.node)
    scale, shift = affine.vectors(1, first.outs)
    return Diagonal(scale / math.prod(window.kernel), offset, window.kernel), shift


def _bias_size(bias: Float64) -> int:
    return bias.size if bias.any() else 0


def window_attributes(old: Window, new: Window, group: int | None = None) -> dict[str, object]:
    """The attributes that turn one window into another; none if they are equal, so that the author's spelling stays.

    `group` is the new number of groups where that changes.
    """
    found: dict[str, object] = {} if group is None else {"group": group}
    if old == new:
        return found
    return {
        **found,
        "auto_pad": None,
        "kernel_shape": list(new.kernel),
        "strides": list(new.strides),
        "dilations": list(new.dilations),
        "pads": new.pads,
    }


# --- MatMul, Gemm and identity ---------------------------------------------------------------------------------------


def _matrices(draft: Draft, family: Family, *, aggressive: bool) -> Merge:
    views = [None if b.operator is None else dense(draft, b.operator, total(draft, b)) for b in family.branches]
    known = [view for view in views if view is not None]
    kept = known[0]
    _require_same_matrices(draft, family, known)
    shifts, passing, diagonals = [view.bias for view in known], 0, []
    for branch, view in zip(family.branches, views, strict=True):
        if view is None:
            affine = total(draft, branch)
            require_range(affine, kept.weight.data_type, kept.node)
            scale, shift = affine.vectors(affine.rank - 1, kept.outs)
            diagonals.append(scale)
            shifts.append(shift)
            passing += _bias_size(shift)
    bias = np.sum(shifts, axis=0)
    dims = kept.weight.dims
    before = sum(view.parameters for view in known) + passing
    growth = require_worth(before, math.prod(dims) + _bias_size(bias), kept.node, aggressive=aggressive)
    weight = computed(lambda: kept.as_stored(_added(known, diagonals)), known, dims)
    rank = family.branches[0].affine.rank
    return family.merge(
        kept.node,
        parameters=replaced(kept.node, weight, kept.outs),
        affine=bias_affine(bias, rank, rank - 1),
        growth=growth,
    )


def _require_same_matrices(draft: Draft, family: Family, known: Sequence[Dense]) -> None:
    kept, square = known[0], len(known) == len(family.branches)
    turned = draft.attribute(kept.node, "transA", 0)
    for view in known:
        same = (view.ins, view.outs, draft.attribute(view.node, "transA", 0)) == (kept.ins, kept.outs, turned)
        if not same:
            raise Refused(
                "geometry", f"the matrices of {kept.node.label!r} and {view.node.label!r} differ", view.node.label
            )
    if not square and (kept.ins != kept.outs or turned):
        raise Refused("geometry", f"the matrix of {kept.node.label!r} is not square", kept.node.label)


def _added(known: Sequence[Dense], diagonals: Sequence[Float64]) -> Float64:
    matrix = np.zeros((known[0].ins, known[0].outs))
    for view in known:
        matrix += view.matrix()
    along = np.arange(min(matrix.shape))
    for scale in diagonals:
        matrix[along, along] += scale
    return matrix
