"""A sum of MatMul, Gemm and the tensor itself is one of them; the tensor itself is a diagonal matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from normfold.affine.change import require_range
from normfold.affine.draft import Draft, Merge
from normfold.affine.merge.branch import total
from normfold.affine.merge.family import Family, bias_size
from normfold.affine.merge.views import Dense, bias_affine, computed, dense, replaced, require_worth
from normfold.affine.reasons import Refused
from normfold.model.tensors import Float64


def add_matrices(draft: Draft, family: Family, *, aggressive: bool) -> Merge:
    """One MatMul or Gemm for several, and for the tensor itself.

    Raises:
        Refused: they do not fit together, or the sum would cost more.
    """
    views = [None if b.operator is None else dense(draft, b.operator, total(draft, b)) for b in family.branches]
    known = [view for view in views if view is not None]
    kept = next((view for view in known if view.node is family.keep), known[0])
    _require_same_matrices(draft, family, kept, known)
    shifts, passing, diagonals = [view.bias for view in known], 0, []
    for branch, view in zip(family.branches, views, strict=True):
        if view is None:
            affine = total(draft, branch)
            require_range(affine, kept.weight.data_type, kept.node)
            scale, shift = affine.vectors(affine.rank - 1, kept.outs)
            diagonals.append(scale)
            shifts.append(shift)
            passing += bias_size(shift)
    bias = np.sum(shifts, axis=0)
    dims = kept.weight.dims
    before = sum(view.parameters for view in known) + passing
    growth = require_worth(before, math.prod(dims) + bias_size(bias), kept.node, aggressive=aggressive)
    weight = computed(lambda: kept.as_stored(_added(known, diagonals)), known, dims)
    rank = family.branches[0].affine.rank
    return family.merge(
        kept.node,
        parameters=replaced(kept.node, weight, kept.outs),
        affine=bias_affine(bias, rank, rank - 1),
        attributes={},
        growth=growth,
    )


def _require_same_matrices(draft: Draft, family: Family, kept: Dense, known: Sequence[Dense]) -> None:
    square = len(known) == len(family.branches)
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
