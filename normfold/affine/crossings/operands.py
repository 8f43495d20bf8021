"""Constant operands of elementwise operators: how one takes an affine, and what it becomes."""

from __future__ import annotations

import numpy as np

from normfold.affine.algebra import Affine
from normfold.affine.change import Change, NewParameter, parameter_name, require_normal_factors, require_range
from normfold.affine.draft import Absorption, Draft, Slot
from normfold.affine.reasons import Refused
from normfold.affine.recognise import aligned, operand_values
from normfold.model.constants import Dequantised
from normfold.model.graph import Node
from normfold.model.tensors import Values


def absorb_operand(draft: Draft, node: Node, operand: int, part: Affine) -> Absorption:
    """A constant operand takes an affine on the spot.

    Raises:
        Refused: `dtype-range`, `non-finite`, `overridable`, `quantised` and what else `Draft.parameter` knows.
    """
    source = draft.parameter(node, operand)
    if isinstance(source, Dequantised) and not source.is_vector:
        raise Refused("quantised", f"operand {operand} of {node.label!r} is stored as integers", source.node.label)
    kind = source.data_type
    require_range(part, kind, node)
    if node.op_type in ("Mul", "Div"):
        factor = operand_values(draft, node, operand, part.rank)
        require_normal_factors((part.scale, factor, part.scale * factor), kind)
    return Absorption(Slot(node, operand), part)


def build_operand(draft: Draft, node: Node, operand: int, affine: Affine) -> Change:
    """A constant operand `c` becomes `s·c + t`, in the shape that both need."""
    source = draft.parameter(node, operand)
    rank = affine.rank
    values = aligned(node, source, rank) if rank else np.asarray(source.array(), np.float64)
    new = affine.scale * values + affine.shift
    dims = new.shape[next((i for i in range(rank) if new.shape[i] != 1 or rank - i <= len(source.dims)), rank) :]
    parameter = NewParameter(
        Values(new.reshape(dims), source.data_type), source.data_type, dims, parameter_name(node, operand, "constant")
    )
    return Change(node, {operand: parameter})
