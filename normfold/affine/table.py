"""The absorber Gather(table, ids) on axis 0: an embedding table takes an affine that varies along its own axes."""

from __future__ import annotations

from normfold.affine.algebra import Affine
from normfold.affine.change import (
    Absorber,
    Change,
    NewParameter,
    closed,
    into_weights,
    parameter_name,
    require_affordable,
    require_range,
)
from normfold.affine.draft import Absorption, Draft
from normfold.affine.reasons import Refused
from normfold.model import attributes
from normfold.model.graph import Node
from normfold.model.tensors import Float64, TensorSource


def _accept_gather(draft: Draft, node: Node, affine: Affine) -> Absorption:
    closed(node, ("axis",))
    table = draft.parameter(node, 0)
    if int(attributes.get(node, "axis", 0)) % max(len(table.dims), 1) != 0 or len(table.dims) < 2:
        raise Refused("no-absorber", f"Gather {node.label!r} does not read rows of a table", node.label)
    _aligned_to_table(affine, table, node)
    require_range(affine, table.data_type, node)
    require_affordable(draft, node, 0, table)
    return into_weights(node, affine)


def _aligned_to_table(affine: Affine, table: TensorSource, node: Node) -> tuple[Float64, Float64]:
    lead = affine.rank - (len(table.dims) - 1)
    for axis in affine.varying:
        if axis < lead:
            raise Refused("not-per-channel", f"axis {axis} is not an axis of the table of {node.label!r}", node.label)
    return tuple(part.reshape(1, *part.shape[lead:]) for part in (affine.scale, affine.shift))  # type: ignore[return-value]


def _build_gather(draft: Draft, node: Node, affine: Affine) -> Change:
    table = draft.parameter(node, 0)
    scale, shift = _aligned_to_table(affine, table, node)
    new = NewParameter(table, table.data_type, table.dims, parameter_name(node, 0, "table"), scale, shift)
    return Change(node, {0: new})


TABLE = Absorber(_accept_gather, _build_gather)
