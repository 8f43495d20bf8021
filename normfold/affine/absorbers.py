"""The table of absorbers, and how every kind of slot is carried out."""

from __future__ import annotations

from collections.abc import Iterable

from normfold.affine.algebra import Affine
from normfold.affine.change import Absorber, Change, with_merge
from normfold.affine.convolution import CONVOLUTIONS
from normfold.affine.crossings.activations import CLIP_BOUNDS, LOWER_BOUND, build_clip_bound, build_lower_bound
from normfold.affine.crossings.operands import build_operand
from normfold.affine.crossings.space import build_pad_value
from normfold.affine.draft import INTERNAL, OUTPUT, Draft, Slot
from normfold.affine.gemm import GEMM
from normfold.affine.matmul import MATMUL
from normfold.affine.normalisers import NORMALISERS
from normfold.affine.quantised import split, through_scales
from normfold.affine.recurrent import RECURRENT
from normfold.affine.table import TABLE
from normfold.model.graph import Node

_ROWS: dict[str, Absorber] = {
    **CONVOLUTIONS,
    "Gemm": GEMM,
    "MatMul": MATMUL,
    "Gather": TABLE,
    **NORMALISERS,
    **RECURRENT,
}
ABSORBERS: dict[str, Absorber] = {name: through_scales(row) for name, row in _ROWS.items()}


def changes(draft: Draft, slots: Iterable[tuple[Slot, Affine]]) -> list[Change]:
    """The changes for all slots that collected something.

    What a node collected in its other internal slots is part of the change for what it collected behind.
    """
    return [
        part
        for slot, affine in slots
        if slot.operand not in INTERNAL or slot.operand == OUTPUT
        for part in split(draft, build(draft, *slot, affine))
    ]


def build(draft: Draft, node: Node, operand: int, affine: Affine) -> Change:
    """The change for everything that a slot collected; what collected in front of a node goes with `OUTPUT`."""
    if operand == OUTPUT:
        change = ABSORBERS[node.op_type].build(draft, node, affine)
        merge = draft.merges.get(id(node))
        return change if merge is None else with_merge(change, merge)
    if node.op_type == "Pad":
        return build_pad_value(draft, node, affine)
    if node.op_type == "Relu" and operand == LOWER_BOUND:
        return build_lower_bound(draft, node, affine)
    if node.op_type == "Clip" and operand in CLIP_BOUNDS:
        return build_clip_bound(draft, node, operand, affine)
    return build_operand(draft, node, operand, affine)
