"""Crossings: what an affine on one side of an operator becomes on the other, so that the operator itself may stay.

One row per operator, in families. Anything without a row stops the search.
"""

from __future__ import annotations

from normfold.affine.crossings import activations, branches, pooling, selection, shape_ops, space
from normfold.affine.crossings.base import Crossing

CROSSINGS: dict[str, Crossing] = {
    **shape_ops.ROWS,
    **selection.ROWS,
    **activations.ROWS,
    **pooling.ROWS,
    **space.ROWS,
    **branches.ROWS,
}
